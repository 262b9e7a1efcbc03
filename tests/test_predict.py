"""`headrace predict` on raw rows and files, against the model on the stored records."""

import collections
import csv
import io
import json
import subprocess

import numpy as np
import pytest
from oracle import compare, made, pixels, records
from oracle.command import arguments, headrace
from PIL import Image


def _predict(*words):
    """Exit status, lines and stderr."""
    done = subprocess.run(**arguments("predict", *words), capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.fixture(scope="module")
def trained(runs, tmp_path_factory):
    """A function from a run's name to the folder of a model of it."""
    made = {}

    def train(name):
        if name not in made:
            model = tmp_path_factory.mktemp("model") / "model"
            done = headrace("train", runs[name].folder, "--output", model, "--epochs", 1)
            assert done.returncode == 0, done.stdout
            made[name] = model
        return made[name]

    return train


def _of_stored(run, wanted, model) -> np.ndarray:
    """What the Keras model says of each record as it is stored, in the order of wanted.records."""
    import keras

    network = keras.models.load_model(model / "model.keras")
    if not wanted.features:
        stored, _ = pixels.stored(run.folder, run.manifest, wanted)
        return network.predict({"image": stored}, verbose=0)
    dtypes = {name: run.manifest["features"][name]["dtype"] for name in network.input}
    found = np.zeros((len(wanted.records), network.output.shape[1]), np.float32)
    for file, rows in compare.placed(run.manifest, wanted):
        if rows:
            columns = records.parsed(run.folder / file, dtypes)
            found[rows] = network.predict(columns, verbose=0)
    return found


def _rows(wanted, columns, chosen) -> str:
    """Records as CSV, each value as it was trimmed, `?` where it is missing."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    for row in chosen:
        values = [wanted.records[row].text[column] for column in columns]
        table.writerow(["?" if value is None else value for value in values])
    return text.getvalue()


@pytest.mark.runs("adult-made")
def test_every_row_has_its_prediction_or_its_reason(runs, trained, tmp_path):
    run, wanted, model = runs["adult-made"], runs.expected("adult-made"), trained("adult-made")
    columns = wanted.spec["source"]["columns"]
    assert columns[-1] == "income"
    with_label, without = tmp_path / "with label.csv", tmp_path / "without.csv"
    chosen = range(0, len(wanted.records), 2)
    sound = [r for r in chosen if "\n" not in (wanted.records[r].text["education"] or "")]
    with_label.write_text(_rows(wanted, columns, chosen))
    faults = {"ragged": "1,2,3\n", "age": _rows(wanted, columns[:-1], [0]).replace(",", "?,", 1)}
    faults["missing"] = ",".join(["30", "x", "1", "?", *["1"] * 10]) + "\n"
    without.write_text(_rows(wanted, columns[:-1], sound) + "".join(faults.values()))
    output = tmp_path / "predictions.jsonl"
    status, lines, told = _predict(
        model, with_label, without, "--output", output, "--probabilities"
    )
    assert (status, lines) == (0, [])
    assert told == (
        f"{len(chosen) + len(sound):,} predicted; 3 not: missing_education 1, ragged_row 1, "
        "unparsable_age 1\n"
    )
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    by_source = collections.defaultdict(list)
    for answer in answers:
        by_source[answer["source"]].append(answer)
    assert [*by_source] == [str(with_label), str(without)]
    of_stored = _of_stored(run, wanted, model)
    _compare(by_source[str(with_label)], of_stored[list(chosen)], wanted.classes)
    _compare(by_source[str(without)][:-3], of_stored[sound], wanted.classes)
    assert [(a["line"], a["reason"]) for a in by_source[str(without)][-3:]] == [
        (len(sound) + 1, "ragged_row"),
        (len(sound) + 2, "unparsable_age"),
        (len(sound) + 3, "missing_education"),
    ]
    assert by_source[str(without)][-3]["detail"] == "3 fields, but there are 14 columns"
    assert [a["line"] for a in by_source[str(without)]] == list(range(1, len(sound) + 4))


def _compare(answers, wanted, classes) -> None:
    found = np.array([list(answer["probabilities"].values()) for answer in answers])
    assert found.shape == wanted.shape and len(np.unique(found)) > len(found) / 4
    assert np.allclose(found, wanted, atol=1e-5)
    for answer, row in zip(answers, found, strict=True):
        assert [*answer["probabilities"]] == classes
        assert (answer["class"], answer["score"]) == (classes[row.argmax()], row.max())


@pytest.mark.runs("taxi-made")
def test_a_header_names_the_columns_and_csv_comes_out(runs, trained, tmp_path):
    run, wanted, model = runs["taxi-made"], runs.expected("taxi-made"), trained("taxi-made")
    columns = sorted({"fare", "trip_miles", *made.TAXI} - {"tips", "trip_start_month"})
    path = tmp_path / "trips.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for record in wanted.records[:300]:
            table.writerow([record.text[column] for column in columns])
    status, lines, told = _predict(model, path, "--format", "csv")
    assert (status, told) == (0, "300 predicted\n")
    found = list(csv.DictReader(lines))
    assert [*found[0]] == ["source", "line", "value", "reason", "detail"]
    values = np.array([float(row["value"]) for row in found])
    assert np.allclose(values, _of_stored(run, wanted, model)[:300, 0], atol=1e-5)
    path.write_text(path.read_text().replace("company", "firm", 1))
    status, lines, told = _predict(model, path)
    assert (status, lines) == (2, [])
    assert told.startswith(f"headrace: {path}: features.company: there is no column 'company'.")
    assert told.count("\n") == 1


@pytest.mark.runs("photos-made")
def test_files_and_folders_of_images(runs, trained, tmp_path):
    run, wanted, model = runs["photos-made"], runs.expected("photos-made"), trained("photos-made")
    root = run.case.root
    status, lines, told = _predict(model, root, "--probabilities")
    answers = {answer["source"]: answer for answer in map(json.loads, lines)}
    assert status == 0 and len(answers) == len(lines) == len(list(root.iterdir()))
    assert told == f"{len(lines) - 1} predicted; 1 not: undecodable_image 1\n"
    assert answers[str(root / "n1_text.JPEG")]["reason"] == "undecodable_image"
    of_stored = _of_stored(run, wanted, model)
    _compare(
        [answers[str(root / record.path)] for record in wanted.records], of_stored, wanted.classes
    )
    first = root / wanted.records[0].path
    for kind in ("BMP", "GIF", "PNG"):  # TensorFlow alone cannot decode all of them.
        Image.open(first).save(tmp_path / f"again.{kind.lower()}", kind)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(first.read_bytes()[:2000])
    status, lines, told = _predict(model, tmp_path / "again.bmp", cut, tmp_path)
    names = [json.loads(line)["source"].rpartition("/")[2] for line in lines]
    assert names == ["again.bmp", "cut.jpg", "again.bmp", "again.gif", "again.png", "cut.jpg"]
    assert told.splitlines()[-1] == "4 predicted; 2 not: undecodable_image 2"  # libjpeg may speak.
    status, lines, told = _predict(model, cut)
    assert (status, len(lines)) == (1, 1)


@pytest.mark.runs("photos-made")
def test_paths_that_do_not_exist_are_one_line(trained, tmp_path):
    model = trained("photos-made")
    status, lines, told = _predict(model, tmp_path / "absent")
    assert (status, lines) == (2, [])
    assert told == f"headrace: '{tmp_path}/absent' matches no file. Correct the path.\n"
    for output, message in (
        (
            "absent/file",
            "{}: cannot be written (No such file or directory). Give another --output.",
        ),
        ("", "--output must name a file, but '{}' does not. Give another."),
    ):
        path = tmp_path / output
        status, lines, told = _predict(model, tmp_path, "--output", path)
        assert (status, lines, told) == (2, [], f"headrace: {message.format(path)}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.runs("adult-made")
def test_an_input_is_never_replaced(runs, trained, tmp_path):
    wanted, model = runs.expected("adult-made"), trained("adult-made")
    rows = _rows(wanted, wanted.spec["source"]["columns"], range(5))
    files = {name: tmp_path / name for name in ("rows.csv", "out.csv.partial")}
    for path in files.values():
        path.write_text(rows)
    (tmp_path / "link.csv").symlink_to("rows.csv")
    for words in (
        (files["rows.csv"], "--output", files["rows.csv"]),
        (tmp_path / "link.csv", "--output", files["rows.csv"]),
        (tmp_path, "--output", tmp_path / "link.csv"),
    ):
        status, _, told = _predict(model, *words)
        assert (status, told.count("\n")) == (2, 1) and "is one of the files to read" in told
    status, _, told = _predict(
        model, files["out.csv.partial"], "--output", tmp_path / "out.csv", "--format", "csv"
    )
    assert (status, told) == (0, "5 predicted\n")
    assert [path.read_text() for path in files.values()] == [rows, rows]
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 6
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.runs("taxi-made")
def test_what_cannot_be_predicted_is_one_line(trained, tmp_path):
    model, empty = trained("taxi-made"), tmp_path / "empty.csv"
    for text in ("", "fare,trip_miles\n"):
        empty.write_text(text)
        output = tmp_path / "out.jsonl"
        status, lines, told = _predict(model, empty, "--output", output)
        assert (status, lines, told) == (1, [], f"headrace: {empty}: holds no rows.\n")
    assert not output.exists()
    status, lines, told = _predict(model, empty, "--probabilities")
    assert (status, lines) == (2, [])
    assert told == (
        f"headrace: {model}: it predicts a number, not classes. Leave out --probabilities.\n"
    )
