"""What known libraries offer, what it is called here, and the tests that compare the values.

    python tests/features.py > docs/features.md

Its rows are the marks `@pytest.mark.feature(original, argument, here)` of the tests that pytest
finds, so that no row stands there without a test.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

_HEAD = """\
# What becomes of the arguments you know

An argument, what it is called here, and the test that compares the values of both; in the table of
what chance decides, the test of what comes in its place. Where nothing else is said, it is a key of
the spec ([spec.md](spec.md)); `load` and its `Options` are those of `trainer.input_pipeline`
([training.md](training.md)). Where values differ on purpose stands in
[differences.md](differences.md).

`python tests/features.py > docs/features.md` makes this file from the marks of the tests.
"""

# The order of the sections. Others follow by name.
_ORIGINALS = (
    "ImageDataGenerator",
    "ImageDataGenerator.flow_from_dataframe",
    "keras.utils.image_dataset_from_directory",
    "tf.image.resize",
    "tf.image",
    "keras.layers",
    "keras.utils.FeatureSpace",
    "keras.utils.bounding_boxes",
    "TextVectorization",
    "keras.utils.text_dataset_from_directory",
    "tft",
    "tensorflow_text",
    "tft.apply_buckets",
    "tft.apply_buckets_with_interpolation",
    "tft.quantiles",
    "tft.scale_by_min_max",
    "tft.scale_to_gaussian",
    "tft.bucketize_per_key",
    "tft.scale_by_min_max_per_key",
    "tft.scale_to_0_1_per_key",
    "tft.scale_to_z_score_per_key",
    "sklearn KBinsDiscretizer",
    "sklearn MinMaxScaler",
    "sklearn PowerTransformer",
    "sklearn RobustScaler",
    "sklearn SimpleImputer",
    "sklearn StandardScaler",
    "sklearn CountVectorizer",
    "sklearn TfidfVectorizer",
    "sklearn MultiLabelBinarizer",
    "sklearn.model_selection",
    "sklearn OneHotEncoder",
    "keras.datasets",
    "keras.utils",
    "tf.io",
    "tf.strings",
    "tf.lookup",
    "tf.sparse",
    "numpy",
    "pandas.Series.dt",
    "pyarrow.parquet",
    "tarfile",
    "What chance decides",
)
_IMAGES = "keras.utils.image_dataset_from_directory"
_TEXTS = "keras.utils.text_dataset_from_directory"
NOT_OFFERED = {
    ("ImageDataGenerator", "interpolation_order: 2 to 5"): (
        "splines of the whole image, which SciPy computes value by value; 0 and 1 are there"
    ),
    (_TEXTS, "max_length"): (
        "it cuts bytes, and maybe a character in two; `output_sequence_length` cuts tokens"
    ),
    **dict.fromkeys(
        [(_IMAGES, "class_names"), (_TEXTS, "class_names")],
        "classes are numbered in the order of their names; a `[[filter]]` leaves some out",
    ),
    **dict.fromkeys([(_IMAGES, "format"), (_TEXTS, "format")], "batches are a tf.data.Dataset"),
    **dict.fromkeys(
        [(_IMAGES, "verbose"), (_TEXTS, "verbose")],
        "how many files of which class there are stands in the manifest",
    ),
    **dict.fromkeys(
        [(_IMAGES, "subset"), (_TEXTS, "subset")],
        "`load` takes the name of a split; which record is in it, a hash decides and not its place",
    ),
    ("tft", "apply_vocabulary"): (
        '`type = "text"` takes a given `vocabulary`; a `preprocessing_fn` may call it for others'
    ),
    ("tft", "estimated_probability_density"): "no input of a model; `preprocessing_fn` may call it",
    ("tft", "word_count"): "no input of a model; `preprocessing_fn` may call it",
    ("tft", "segment_indices"): "a step between tensors; `preprocessing_fn` may call it",
    **dict.fromkeys(
        [("tft", "sparse_tensor_left_align"), ("tft", "sparse_tensor_to_dense_with_shape")],
        "the trainer reads what is stored sparse as dense; `preprocessing_fn` may call it",
    ),
    ("tft", "get_num_buckets_for_transformed_feature"): "the manifest has `num_categories`",
}


@dataclasses.dataclass(frozen=True, order=True)
class Mark:
    """A mark of a test: `test` is its name, and `path` its file below tests/."""

    original: str
    argument: str
    here: str
    path: str
    test: str


class _Collected:
    """A plugin of pytest that keeps the marks of what it collects."""

    def __init__(self, folder: Path):
        self.marks: set[Mark] = set()
        self._folder = folder

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            path = str(item.path.relative_to(self._folder))
            for mark in item.iter_markers("feature"):
                if len(mark.args) != 3 or not all(isinstance(text, str) for text in mark.args):
                    raise pytest.UsageError(
                        f"{item.nodeid}: a mark must be three texts, original, argument and what "
                        f"it is called here, but is {mark.args}"
                    )
                self.marks.add(Mark(*mark.args, path, getattr(item, "originalname", item.name)))


def marks(folder: Path) -> list[Mark]:
    """Returns the marks of all tests of a folder, sorted; files without a mark are not imported.

    Raises:
      SystemExit: pytest could not collect them, and said why on stderr.
    """
    files = [str(path) for path in folder.rglob("test_*.py") if "mark.feature" in path.read_text()]
    collected = _Collected(folder)
    with contextlib.redirect_stdout(sys.stderr):
        status = pytest.main(
            ["--collect-only", "-qq", "-p", "no:cacheprovider", *files], [collected]
        )
    if status:
        raise SystemExit(status)
    return sorted(collected.marks)


def document(found: Sequence[Mark]) -> str:
    """Returns docs/features.md, made of the marks."""
    tables: dict[str, dict[tuple[str, str], list[Mark]]] = {name: {} for name in _ORIGINALS}
    for mark in found:
        rows = tables.setdefault(mark.original, {})
        rows.setdefault((mark.argument, mark.here), []).append(mark)
    sections = [_section(original, rows) for original, rows in tables.items() if rows]
    return "\n".join([_HEAD, *sections, _not_offered()])


def _section(original: str, rows: dict[tuple[str, str], list[Mark]]) -> str:
    lines = [f"## {original}", "", "| argument | here | compared in |", "|---|---|---|"]
    for (argument, here), tests in rows.items():
        lines.append(f"| `{argument}` | {_cell(here)} | {', '.join(map(_link, tests))} |")
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _link(mark: Mark) -> str:
    return f"[{mark.test}](../tests/{mark.path})"


def _not_offered() -> str:
    lines = ["## Not offered", "", "| original | argument | why |", "|---|---|---|"]
    for (original, argument), why in sorted(NOT_OFFERED.items()):
        lines.append(f"| {original} | `{argument}` | {_cell(why)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.stdout.write(document(marks(Path(sys.argv[1]).resolve() if sys.argv[1:] else TESTS)))
