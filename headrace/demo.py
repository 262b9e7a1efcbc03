"""The whole way on real data that scikit-learn ships: images and a table, no network."""

import csv
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from beam_jobs.config import load_spec
from beam_jobs.errors import DataError, SpecError
from headrace import console
from trainer import startup

DIGITS_SPEC = """\
# headrace run digits.toml --output digits-dataset       1,797 handwritten digits of 8x8 pixels
name = "digits"

[source]
format = "images"
paths = ["digits"]

[split]
fractions = { train = 0.8, test = 0.2 }     # by hash of the path

[features.image]
size = [8, 8]
channels = 1
rescale = 0.00392156862745098               # 1/255, before the statistics
featurewise_center = true
featurewise_std_normalization = true
store = "uint8"

[label]
from = "directory"
type = "class"

[output]
num_shards = 2
compression = "none"
max_rejected = 0.01
"""

CANCER_HEAD = """\
# headrace run breast-cancer.toml --output breast-cancer-dataset      569 tumors, benign or not
name = "breast-cancer"

[source]
format = "csv"
paths = ["breast-cancer.csv"]

[split]
key = "*"                                   # equal rows fall into the same split
fractions = { train = 0.8, test = 0.2 }

[[filter]]
name = "plausible_area"
where = "mean_area > 0"

[features]
"""

CANCER_TAIL = """
[label]
column = "diagnosis"
type = "class"

[output]
num_shards = 2
compression = "gzip"
max_rejected = 0.02
"""
_MIN_ACCURACY = {"digits": 0.98, "breast-cancer": 0.95}
_SEED = 0


def demo(output: str, *, quiet: bool) -> int:
    """Writes the data, then runs, verifies, trains and evaluates both datasets.

    Args:
      output: Folder for all of it.
      quiet: Whether to print only the results.

    Returns:
      0 if both models reach their accuracy on test, 0.98 for digits and 0.95 for tumors, else 1.

    Raises:
      SpecError: scikit-learn is not there, or the folder holds something else.
    """
    folder = _prepared(Path(output))
    startup.import_tensorflow()
    _write_digits(folder / "digits")
    (folder / "digits.toml").write_text(DIGITS_SPEC)
    names = _write_cancer(folder / "breast-cancer.csv")
    features = "".join(
        f'{name:24} = {{ dtype = "float32", transform = "scale_to_z_score" }}\n' for name in names
    )
    (folder / "breast-cancer.toml").write_text(CANCER_HEAD + features + CANCER_TAIL)
    reached = {name: _whole_way(folder, name, quiet) for name in _MIN_ACCURACY}
    return 0 if all(reached[name] >= least for name, least in _MIN_ACCURACY.items()) else 1


def _prepared(folder: Path) -> Path:
    """Makes the folder, empty but for what an earlier demo left."""
    marker = folder / ".headrace-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise SpecError(f"{folder}: holds files that are no demo. Give another --output.")
    if marker.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()
    return folder


def _datasets() -> Any:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise SpecError(
            "the demo takes its data from scikit-learn. Run: pip install 'headrace[demo]'."
        ) from error
    return datasets


def _write_digits(folder: Path) -> None:
    """Writes each digit as PNG into the folder of its class, and some files that are none."""
    digits = _datasets().load_digits()
    for index, (pixels, target) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(target) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).round().astype("uint8")).save(path)
    whole = (folder / "0" / "0000.png").read_bytes()
    (folder / "0" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "1" / "empty.png").write_bytes(b"")
    (folder / "2" / "notes.png").write_text("Not an image, whatever its name says.\n")


def _write_cancer(path: Path) -> list[str]:
    """Writes the table as CSV, with some broken rows; returns the names of its features."""
    table = _datasets().load_breast_cancer()
    names = [name.replace(" ", "_") for name in table.feature_names]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "diagnosis"])
        rows = [
            [*map(repr, map(float, values)), str(table.target_names[target])]
            for values, target in zip(table.data, table.target, strict=True)
        ]
        writer.writerows(rows)
        first = rows[0]
        writer.writerow(first[:-1])  # A field is missing: ragged_row.
        writer.writerow(["about 20", *first[1:]])  # unparsable_mean_radius
        writer.writerow(["1e999", *first[1:]])  # non_finite_mean_radius
        writer.writerow([first[0], "", *first[2:]])  # missing_mean_texture
        writer.writerow([*first[:3], "-1", *first[4:]])  # plausible_area
        writer.writerow([*first[:-1], ""])  # no_label
    return names


def _whole_way(folder: Path, name: str, quiet: bool) -> float:
    """Runs, verifies, trains and evaluates one dataset; returns the accuracy on test."""
    from trainer import evaluate, train

    dataset, model = str(folder / f"{name}-dataset"), str(folder / f"{name}-model")
    print(f"\n== {name}: headrace run {folder / name}.toml --output {dataset}")
    info = console.run(load_spec(str(folder / f"{name}.toml")), dataset, quiet=quiet)
    print(console.summary(info, dataset))
    print(console.statistics(info))
    print(f"\n== {name}: headrace verify {dataset}")
    if console.verify(dataset, quiet=False):
        raise DataError(f"{dataset}: is damaged. Please report this.")
    print(f"\n== {name}: headrace train {dataset} --output {model}")
    train.train(dataset, model, seed=_SEED, verbose=not quiet)
    print(f"\n== {name}: headrace evaluate {model} {dataset}")
    result = evaluate.evaluate(model, dataset, "test")
    accuracy, least = float(result["accuracy"]), _MIN_ACCURACY[name]
    verdict = "at least" if accuracy >= least else "LESS THAN"
    print(f"test: {result['num_examples']:,} examples, accuracy {accuracy:.4f}, {verdict} {least}")
    return accuracy
