"""The product's loader beside a plain read of the same files, and beside the loaders of others.

    python -m benchmarks.loader --data DIR

`headrace run` makes uint8 224x224x3 images of 4,000 photos, uncompressed; a pass is the split
`train`. The limit is a plain sequential read of its shards in pieces of 1 MB, in images a second.
From the page cache that copies at 10 GB/s and more, and a normalized image is four times as many
bytes as a stored one: no loader comes near. `cold` has the system forget the files before each
pass, for both sides; a virtual disk may still have them in its host's memory.

The others are measured on `uint8`, `normalized`, `jpeg` and `table`, which
`benchmarks/peers/loader_passes.py` explains. The table at the end has the examples a second of
every loader, and how many times as fast the product's is. Files are in memory. Where a loader can
read what was decoded and resized before, it does; image_dataset_from_directory and
ImageDataGenerator decode the photos, for they read nothing else. grain, array_record, webdataset
and torch are no dependencies: what is not installed is not measured.
"""

import dataclasses
import functools
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import commands, inputs, measure
from benchmarks.measure import Command, Measurement, Settings, Side, main
from benchmarks.peers.loader_passes import KINDS, STORED_SIZE

_NAMES = {
    "headrace": "`trainer.input_pipeline.load`",
    "directory": "`image_dataset_from_directory`",
    "generator": "`ImageDataGenerator`",
    "csv": "`make_csv_dataset`",
    "pydataset": "`PyDataset`",
    "grain": "grain",
    "webdataset": "WebDataset",
}
_NEEDS = {"grain": ("grain", "array_record"), "webdataset": ("webdataset", "torch")}


@functools.cache
def _dataset(settings: Settings) -> tuple[inputs.Input, Path]:
    """Makes photos and a dataset of them, once, and returns both folders."""
    source = inputs.photos(settings.data, settings.work, settings.sized(4_000, 96))
    return source, _run(inputs.images_spec(source, 224, "uint8"), source)


def _run(spec: Path, source: inputs.Input) -> Path:
    command = commands.headrace(spec, source.num_records)
    measure.run_once(command)
    if not command.output:
        raise ValueError("headrace run must have an output.")
    return command.output


def _loader(name: str, *arguments: str | Path) -> Command:
    return Command((sys.executable, "-m", f"benchmarks.peers.loader_{name}", *map(str, arguments)))


def _beside_read(settings: Settings, *options: str) -> Measurement:
    source, folder = _dataset(settings)
    names = ["read", "tfrecord", "uint8", "normalized", "normalized_in_map"]
    sides = measure.in_turn(
        {name: _loader("headrace", name, folder, *options) for name in names},
        settings.rounds,
    )
    figures = {f"{name} images/s": side.printed_rate for name, side in sides.items()}
    for name in "uint8", "normalized":
        figures[f"{name} of the plain read"] = sides[name].printed_rate / sides["read"].printed_rate
    figures["normalized of tfrecord"] = (
        sides["normalized"].printed_rate / sides["tfrecord"].printed_rate
    )
    return Measurement(f"train of {source.num_records:,} photos, 224x224 uint8", sides, figures)


def warm(settings: Settings) -> Measurement:
    """Files in the page cache."""
    return _beside_read(settings)


def cold(settings: Settings) -> Measurement:
    """Files that the system was told to forget before each pass."""
    return _beside_read(settings, "--cold")


def uint8(settings: Settings) -> Measurement:
    """All loaders: images as they are stored."""
    return _photos_beside_peers(settings, "uint8")


def normalized(settings: Settings) -> Measurement:
    """All loaders: images as float32, mean and standard deviation applied."""
    return _photos_beside_peers(settings, "normalized")


def jpeg(settings: Settings) -> Measurement:
    """All loaders: JPEG files, decoded and cropped at random."""
    num_images = settings.sized(4_000, 96)
    source = inputs.jpegs(settings.data, settings.work, num_images, STORED_SIZE)
    forms = _forms(source.path)
    loaders = _file_loaders("jpeg", source.path)
    loaders |= _loaders("jpeg", forms / "dataset", forms)
    loaders["pydataset"] = _loader("keras", "pydataset", "jpeg", source.path)
    return _beside_peers(settings, "jpeg", f"{num_images:,} JPEG files", loaders)


def table(settings: Settings) -> Measurement:
    """All loaders that read tables."""
    source = inputs.table(settings.data, settings.work, settings.sized(125_000, 2_000))
    dataset = _run(inputs.table_spec(source), source)
    forms = _forms(dataset)
    loaders = {"csv": _loader("keras", "csv", "table", forms), **_loaders("table", dataset, forms)}
    return _beside_peers(settings, "table", f"train of {source.num_records:,} rows", loaders)


def _photos_beside_peers(settings: Settings, kind: str) -> Measurement:
    source, dataset = _dataset(settings)
    loaders = {**_file_loaders(kind, source.path), **_loaders(kind, dataset, _forms(dataset))}
    return _beside_peers(settings, kind, f"train of {source.num_records:,} photos", loaders)


@functools.cache
def _forms(source: Path) -> Path:
    """Writes examples in the forms that the peers read, once, and returns their folder."""
    folder = source.with_name(f"{source.name}-forms")
    measure.run_once(dataclasses.replace(_loader("forms", source, folder), output=folder))
    return folder


def _file_loaders(kind: str, folder: Path) -> dict[str, Command]:
    """Returns the loaders of class folders."""
    return {name: _loader("keras", name, kind, folder) for name in ("directory", "generator")}


def _loaders(kind: str, dataset: Path, forms: Path) -> dict[str, Command]:
    """Returns the product's loader, and the installed ones of what `_forms` wrote."""
    installed = [name for name, modules in _NEEDS.items() if _has(*modules)]
    return {
        "headrace": _loader("headrace", kind, dataset),
        "pydataset": _loader("keras", "pydataset", kind, forms),
        **{name: _loader(name, kind, forms) for name in installed},
    }


def _has(*modules: str) -> bool:
    missing = [name for name in modules if not importlib.util.find_spec(name)]
    for name in missing:
        print(f"{name} is not installed: not measured.", flush=True)
    return not missing


def _beside_peers(
    settings: Settings, kind: str, work: str, loaders: Mapping[str, Command]
) -> Measurement:
    sides = measure.in_turn(loaders, settings.rounds)
    figures = {f"{name} examples/s": side.printed_rate for name, side in sides.items()}
    return Measurement(f"{kind}: {work}", sides, figures)


def comparison(measurements: Sequence[Measurement]) -> str:
    """Returns a table in Markdown: a line for each loader, a column for each kind of examples."""
    sides = {measurement.work.partition(":")[0]: measurement.sides for measurement in measurements}
    kinds = [kind for kind in KINDS if kind in sides]
    lines = [f"| examples/s | {' | '.join(kinds)} |", "|---" * (1 + len(kinds)) + "|"]
    for name, title in _NAMES.items():
        if any(name in sides[kind] for kind in kinds):
            cells = [_cell(sides[kind], name) for kind in kinds]
            lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) if kinds else ""


def _cell(sides: Mapping[str, Side], name: str) -> str:
    if name not in sides:
        return ""
    rate = sides[name].printed_rate
    times = sides["headrace"].printed_rate / rate
    return f"{rate:,.0f}" if name == "headrace" else f"{rate:,.0f} ({times:.1f}x)"


if __name__ == "__main__":
    functions = [warm, cold, uint8, normalized, jpeg, table]
    sys.exit(main("loader", __doc__, functions, comparison))
