"""Raw input to prediction in a process that has only TensorFlow, against the stored records."""

from pathlib import Path

import numpy as np
import pytest
from oracle import compare, served
from oracle.command import done

ENOUGH = 1000  # Records: as many shards as hold these, or all.


def _saved(run, tmp_path: Path) -> tuple[Path, Path]:
    """A model that was trained for an epoch, and its SavedModel."""
    model, saved = tmp_path / "model", tmp_path / "saved"
    done("train", run.folder, "--output", model, "--epochs", 1)
    done("export", model, "--output", saved)
    return model, saved


def _chosen(run, wanted) -> list[tuple[str, list[int]]]:
    """Shards of every split with at least 1,000 records together, or all; and their records."""
    chosen, left = [], ENOUGH
    by_turns = sorted(compare.placed(run.manifest, wanted), key=lambda shard: shard[0][-30:])
    for file, rows in by_turns:
        if left > 0 and rows:
            chosen.append((file, rows))
            left -= len(rows)
    return chosen


def _raw(run, wanted, rows: list[int]) -> dict[str, list]:
    """The raw inputs of records by name: texts, numbers, None where missing; or files."""
    if not wanted.features:
        files = [(run.case.root / wanted.records[row].path).read_bytes() for row in rows]
        return {"image": files}
    keys = served._raw(wanted, rows[0])
    return {
        column: [wanted.records[row].numbers[column, dtype] for row in rows]
        for column, dtype in keys
    }


@pytest.mark.parametrize(
    "run",
    [
        f"{spec}-{data}"
        for spec in ("adult", "taxi", "cifar10", "photos")
        for data in ("made", "real")
    ],
    indirect=True,
)
def test_raw_input_gives_the_bits_that_the_stored_record_gives(run, wanted, tmp_path):
    model, saved = _saved(run, tmp_path)
    chosen = _chosen(run, wanted)
    rows = [row for _, shard in chosen for row in shard]
    assert len(rows) >= min(ENOUGH, len(wanted.records)) and len(rows) > 20
    raw = _raw(run, wanted, rows)
    shards = [file for file, _ in chosen]
    predictions = served.by_tensorflow_alone(saved, run.folder, shards, raw, tmp_path)
    _check(predictions, model, run, chosen, wanted)


def _check(predictions: dict, model: Path, run, chosen, wanted) -> None:
    """The exported predictions are those of the Keras model, and differ from record to record."""
    import keras

    network = keras.models.load_model(model / "model.keras")
    names = list(network.input)
    stored = _stored(run, chosen, names)
    wanted_values = network.predict(stored, verbose=0)
    classes = run.manifest["label"].get("classes")
    if classes:
        assert np.allclose(predictions["probabilities"], wanted_values, atol=1e-5)
        best = np.array(predictions["probabilities"]).argmax(axis=1)
        assert [name.decode() for name in predictions["class"]] == [classes[i] for i in best]
        assert predictions["score"] == np.max(predictions["probabilities"], axis=1).tolist()
    else:
        assert np.allclose(predictions["value"], wanted_values[:, 0], atol=1e-5)
    numbers = predictions["probabilities" if classes else "value"]
    assert len({str(number) for number in numbers}) > len(numbers) / 2


def _stored(run, chosen, names) -> dict[str, np.ndarray]:
    from oracle import records

    features = run.manifest["features"]
    dtypes = {
        n: "string" if features[n]["stored_as"] == "raw" else features[n]["dtype"] for n in names
    }
    parts = [records.parsed(run.folder / file, dtypes) for file, _ in chosen]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in names}
    for name in names:
        if features[name]["stored_as"] == "raw":
            flat = np.frombuffer(b"".join(columns[name]), features[name]["dtype"])
            columns[name] = flat.reshape(-1, *features[name]["shape"])
    return columns
