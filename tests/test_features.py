"""docs/features.md: it is what the tests say, and no argument of the originals is left out."""

import inspect
import re
import subprocess
import sys

import features
import pytest
from oracle.command import ROOT

MARK = '@pytest.mark.feature("A", "x", "a | b")\n'


def _printed(*words) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "tests" / "features.py", *words]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def document() -> str:
    done = _printed()
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _arguments(function) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]


def _originals() -> dict:
    import keras
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    return {
        "ImageDataGenerator": ImageDataGenerator.__init__,
        "TextVectorization": keras.layers.TextVectorization.__init__,
        "keras.utils.image_dataset_from_directory": keras.utils.image_dataset_from_directory,
        "keras.utils.text_dataset_from_directory": keras.utils.text_dataset_from_directory,
    }


def test_the_document_is_made_of_the_marks_of_the_tests(document):
    message = "run: python tests/features.py > docs/features.md"
    assert (ROOT / "docs" / "features.md").read_text() == document, message


def _offered(document: str, original: str) -> list[str]:
    section = document.partition(f"\n## {original}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


def test_every_argument_has_a_test_or_a_reason_why_it_is_not_offered(document):
    for original, function in _originals().items():
        by_chance = re.findall(rf"^\| `{re.escape(original)}: (\w+)` \|", document, re.MULTILINE)
        offered = _offered(document, original) + by_chance
        not_offered = [name for of, name in features.NOT_OFFERED if of == original]
        assert set(_arguments(function)) <= {*offered, *not_offered}, original
        assert not set(offered) & set(not_offered), original


def test_every_mapper_of_tft_has_a_test_or_a_reason_why_it_is_not_offered(document):
    import tensorflow_transform as tft
    from tensorflow_transform import mappers

    mapped = {
        name
        for name, value in vars(mappers).items()
        if inspect.isfunction(value) and value.__module__ == mappers.__name__ and name[0] != "_"
    }
    public = {name for name in mapped if hasattr(tft, name)}
    assert len(public) > 20
    not_offered = {name for of, name in features.NOT_OFFERED if of == "tft"}
    sections = re.findall(r"^## tft\.(\w+)$", document, re.MULTILINE)
    offered = {*_offered(document, "tft"), *sections}
    assert public <= offered | not_offered
    assert not offered & not_offered


def test_a_row_links_to_all_tests_that_compare_it_and_parameters_have_rows(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "test_one.py").write_text(f"import pytest\n{MARK}def test_one(): ...\n")
    (tmp_path / "deep" / "test_two.py").write_text(
        "import pytest\n"
        'NAMED = [pytest.param(1, marks=pytest.mark.feature("A", name, "c")) for name in "yz"]\n'
        f'{MARK}@pytest.mark.parametrize("number", NAMED)\ndef test_two(number): ...\n'
    )
    (tmp_path / "test_three.py").write_text("raise ValueError\n")
    done = _printed(tmp_path)
    assert done.returncode == 0, done.stderr
    two = "[test_two](../tests/deep/test_two.py)"
    section = done.stdout.partition("## A\n")[2].partition("\n## ")[0]
    assert section.splitlines()[3:] == [
        f"| `x` | a \\| b | {two}, [test_one](../tests/test_one.py) |",
        f"| `y` | c | {two} |",
        f"| `z` | c | {two} |",
    ]


def test_a_mark_that_is_not_three_texts_is_an_error(tmp_path):
    (tmp_path / "test_it.py").write_text(
        'import pytest\n@pytest.mark.feature("A", "x")\ndef test_it(): ...\n'
    )
    done = _printed(tmp_path)
    assert (done.returncode != 0, done.stdout) == (True, "")
    assert "test_it.py::test_it: a mark must be three texts" in done.stderr
