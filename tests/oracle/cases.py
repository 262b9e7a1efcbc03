"""The runs that the tests share: which data, which spec, which options, by name."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from oracle import expected, made, made_images, specs, visits


@dataclasses.dataclass(frozen=True)
class Case:
    """One run: the spec's text, where its input lies, and the options of the command."""

    text: str
    options: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    root: Path | None = None
    pattern: str = ""
    block_mb: float | None = None
    beam_flags: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        block = [] if self.block_mb is None else ["--block-mb", str(self.block_mb)]
        return [*self.options, *block, *self.beam_flags]

    def expected(self) -> expected.Expected:
        """What this run must write, computed anew."""
        if self.root is None:
            return expected.of_table(self.text, self.files)
        return expected.of_images(self.text, self.root, self.pattern)


def _table(text: str, files: Sequence[Path], block_mb: float, *options: str) -> Case:
    return Case(specs.with_paths(text, files), options, tuple(files), block_mb=block_mb)


def _images(text: str, path: Path, root: Path, pattern: str, *options: str) -> Case:
    return Case(specs.with_paths(text, [path]), options, root=root, pattern=pattern)


def _adult_cut(lines: Sequence[bytes], text: str, folder: Path, block_mb: float, *options: str):
    """The same records in seven files, named in another order."""
    files = made.write_cut(folder / "cut", lines, 7)
    return _table(text, [files[i] for i in (3, 0, 6, 5, 1, 4, 2)], block_mb, *options)


# Beam's local runner as a cluster: no disk is shared, and the engine shuffles.
CLUSTER = ("--runner", "FnApiRunner")
TWICE = ("--", "--direct_runner_bundle_repeat=1")  # Each bundle is done, and done again.
BLOCK_MB = 0.05  # Made tables have some blocks of this size.


def _made_adult(folder: Path, block_mb: float, *options: str) -> Case:
    files = made.write_cut(folder / "table", made.adult_lines(), 1)
    return _table(specs.made_adult(), files, block_mb, *options)


def _big_adult(folder: Path) -> Case:
    """Enough rows that a run can be killed in its middle."""
    files = made.write_cut(folder / "table", made.adult_lines(60_000), 1)
    return _table(specs.ADULT, files, 0.5, "--workers", "2")


def _cifar10(folder: Path, num_images: int, workers: str, *options: str) -> Case:
    root = made_images.write_cifar10(folder / "cifar10", num_images)
    return _images(specs.CIFAR10, root, root, "**/*", "--workers", workers, *options)


def _photos(folder: Path, *options: str) -> Case:
    root = made_images.write_photos(folder / "photos")
    return _images(specs.PHOTOS, root / "*.JPEG", root, "*.JPEG", *options)


def _retried(case: Case) -> Case:
    return dataclasses.replace(case, beam_flags=TWICE)


def _taxi_cut(folder: Path) -> Case:
    files = made.write_taxi(folder / "cut", 7)
    return _table(specs.made_taxi(), files[::-1], BLOCK_MB * 100, "--workers", "4")


MADE = {
    "adult-made": lambda folder: _made_adult(folder, BLOCK_MB, "--workers", "1"),
    "adult-made files and workers": lambda folder: _adult_cut(
        made.adult_lines(), specs.made_adult(), folder, BLOCK_MB, "--workers", "4"
    ),
    "adult-made blocks": lambda folder: _made_adult(folder, BLOCK_MB * 100, "--workers", "1"),
    "adult-made cluster": lambda folder: _adult_cut(
        made.adult_lines(), specs.made_adult(), folder, BLOCK_MB, "--workers", "2", *CLUSTER
    ),
    "adult-made retried": lambda folder: _retried(
        _made_adult(folder, BLOCK_MB, "--workers", "2", *CLUSTER)
    ),
    "adult-big": _big_adult,
    "taxi-made": lambda folder: _table(
        specs.made_taxi(), made.write_taxi(folder / "table"), BLOCK_MB, "--workers", "1"
    ),
    "taxi-made all": _taxi_cut,
    "cifar10-made": lambda folder: _cifar10(folder, 40, "1"),
    "cifar10-made workers": lambda folder: _cifar10(folder, 40, "4"),
    "cifar10-made cluster": lambda folder: _cifar10(folder, 40, "2", *CLUSTER),
    "photos-made": _photos,
    "cifar10-made retried": lambda folder: _retried(_cifar10(folder, 40, "2", *CLUSTER)),
    "photos-made cluster": lambda folder: _photos(folder, *CLUSTER),
    "visits-made": lambda folder: _table(visits.SPEC, visits.write(folder), BLOCK_MB),
    "visits-by-tft-made": lambda folder: _table(visits.BY_TFT, visits.write(folder), BLOCK_MB),
    "photos-made retried": lambda folder: _retried(_photos(folder, *CLUSTER)),
}
REAL = {
    "adult-real": lambda data, _: _table(specs.ADULT, [data / "adult/adult-train.csv"], 0.5),
    "adult-real all": lambda data, folder: _adult_cut(
        made.records_of(data / "adult/adult-train.csv"), specs.ADULT, folder, 50, "--workers", "1"
    ),
    "taxi-real": lambda data, _: _table(specs.TAXI, [data / "taxi/taxi.csv"], 0.5),
    "cifar10-real": lambda data, _: _images(
        specs.CIFAR10, data / "cifar10", data / "cifar10", "**/*"
    ),
    "photos-real": lambda data, _: _images(
        specs.PHOTOS, data / "photos/*.JPEG", data / "photos", "*.JPEG"
    ),
}
NAMES = (*MADE, *REAL)


def build(name: str, folder: Path, data: Path | None) -> Case | None:
    """The case of this name, its data made under folder; None where the real data is absent."""
    if name in MADE:
        return MADE[name](folder)
    return REAL[name](data, folder) if data else None
