import os
import re
import subprocess
import sys

import pytest

from trainer.__main__ import main

_SIZE = {"dtype": "float32", "shape": [], "stored_as": "float_list", "normalized": True}
_LABEL = {"name": "kind", "dtype": "int64", "type": "class", "classes": ["no", "yes"]}


@pytest.fixture(name="folder")
def fixture_folder(tmp_path, write_dataset):
    records = [{"size": i % 2 - 0.5, "label": i % 2} for i in range(40)]
    splits = {"train": records, "test": records[:7]}
    return write_dataset(tmp_path / "data", splits, {"size": _SIZE}, _LABEL)


def _run(*arguments):
    environment = dict(os.environ)
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # The tests' own.
    command = [sys.executable, "-m", "trainer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_train_and_evaluate_say_what_they_did_and_nothing_else(folder, tmp_path):
    model = tmp_path / "model"
    done = _run("train", folder, "--output", model, "--epochs", 2, "--learning-rate", 0.1)
    error = re.sub(r"epoch .*\n", "", done.stderr)  # A busy machine takes so long that it is told.
    assert (done.returncode, error) == (0, "")
    lines = done.stdout.splitlines()
    assert re.fullmatch(
        r"epoch 2/2  loss \d\.\d{4}  accuracy \d\.\d{4}  [ \d,]{9} examples/s", lines[-2]
    )
    assert lines[-1] == f"model: {model}/model.keras"
    done = _run("evaluate", model, folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"test: 7 examples, loss \S+, accuracy 1\n", done.stdout)
    assert done.stdout.splitlines()[1:] == [
        "  class  precision  recall      f1    support",
        "  no        1.0000  1.0000  1.0000          4",
        "  yes       1.0000  1.0000  1.0000          3",
        "  mean      1.0000  1.0000  1.0000          7",
    ]


def test_quiet_prints_the_result_only(folder, tmp_path, capsys):
    model = str(tmp_path / "model")
    assert main(["train", str(folder), "--output", model, "--epochs", "2", "--quiet"]) == 0
    assert capsys.readouterr().out == f"model: {model}/model.keras\n"
    assert main(["evaluate", model, str(folder), "--split", "train", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("train: 40 examples, loss ")


def test_a_wrong_call_is_one_line_and_status_2(folder, tmp_path):
    done = _run("evaluate", tmp_path, folder)
    assert (done.returncode, done.stdout) == (2, "")
    message = f"headrace: {tmp_path}: holds no model.keras. Make one with `headrace train`.\n"
    assert done.stderr == message


def test_a_damaged_dataset_is_one_line_and_status_1(folder, tmp_path, capsys):
    (folder / "dataset_info.json").write_text("{")
    assert main(["train", str(folder), "--output", str(tmp_path / "model")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"headrace: {folder}/dataset_info.json: is not JSON")
    assert error.count("\n") == 1


def test_an_unfinished_dataset_is_one_line_and_status_2(folder, tmp_path, capsys):
    (folder / "dataset_info.json").unlink()
    assert main(["train", str(folder), "--output", str(tmp_path / "model")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"headrace: {folder}: is not a finished dataset")
    assert error.count("\n") == 1


def test_traceback_shows_where_an_error_came_from(tmp_path):
    with pytest.raises(ValueError, match="there is no such folder"):
        main(["--traceback", "train", str(tmp_path / "absent"), "--output", "model"])


@pytest.mark.parametrize("arguments", [[], ["train"], ["train", "DIR"], ["evaluate", "MODEL"]])
def test_missing_arguments_are_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "the following arguments are required" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["evaluate", "--help"]])
def test_help_answers_without_tensorflow(arguments):
    command = [sys.executable, "-X", "importtime", "-m", "trainer", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "usage: python -m trainer" in done.stdout
    assert "trainer.cli" in done.stderr  # The list of imports.
    assert not re.search(r"\| +(tensorflow|keras|numpy|apache_beam)\b", done.stderr)
