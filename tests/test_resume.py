"""A job that failed half-way goes on where it can."""

import io
import json
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from beam_jobs import image_normalization
from beam_jobs.config import load_spec
from beam_jobs.errors import SpecError
from beam_jobs.run import run
from beam_jobs.verify import verify

PIXELS = 'statistics = "pixel"\n'
WHITENED = 'zca_whitening = true\nstatistics = "pixel"\n'
SPEC = """\
name = "images"
[source]
format = "images"
paths = ["images"]
[split]
fractions = {{ train = 0.6, test = 0.4 }}
[features.image]
size = [{size}, {size}]
store = "{store}"
{steps}featurewise_center = true
[label]
from = "directory"
[output]
num_shards = 3
"""


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def start(folder, store="uint8", size=8, steps=""):
    """Writes images, some of them cut behind their header, and the spec."""
    for number in range(60):
        path = folder / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = png(number)
        path.write_bytes(data if number % 10 else data[:60])
    (folder / "images.toml").write_text(SPEC.format(store=store, size=size, steps=steps))
    return load_spec(str(folder / "images.toml"))


def set_aside(out) -> list[str]:
    lines = [line for file in out.glob("rejected/*") for line in file.open()]
    return sorted(json.loads(line)["source"] for line in lines)


@pytest.mark.parametrize(
    "store, steps",
    [("uint8", ""), ("float32", ""), ("uint8", PIXELS), ("float32", PIXELS), ("float32", WHITENED)],
)
def test_finished_shards_stay_and_the_rest_is_written(store, steps, tmp_path):
    spec = start(tmp_path, store, steps=steps)
    whole = run(spec, str(tmp_path / "whole"))
    assert whole["rejected"] == {"undecodable_image": 6}
    out = tmp_path / "out"
    (out / ".progress").mkdir(parents=True)
    run_until_it_fails(spec, out)
    assert not (out / "dataset_info.json").exists()
    shards = sorted(out.glob("*.tfrecord"))
    assert len(shards) == 6
    before = {path: path.stat().st_mtime_ns for path in shards}
    shards[0].write_bytes(shards[0].read_bytes()[:-1])  # Damaged: it is written again.
    shards[1].unlink()
    again = run(spec, str(out))
    assert again["splits"] == whole["splits"] and again["features"] == whole["features"]
    kept = [path for path in shards if path.stat().st_mtime_ns == before[path]]
    assert kept == shards[2:]
    assert set_aside(out) == set_aside(tmp_path / "whole")
    assert not (out / ".progress").exists()


def run_until_it_fails(spec, out, **options):
    """Runs a job whose last step meets a file that it cannot replace."""
    stop = threading.Event()

    def block():  # The job clears the folder when it starts, notes that, and meets this at its end.
        while not stop.is_set():
            if (out / ".progress" / "job.json").exists():
                (out / "schema.pbtxt" / "in the way").mkdir(parents=True, exist_ok=True)
            stop.wait(0.01)

    thread = threading.Thread(target=block)
    thread.start()
    try:
        with pytest.raises(Exception, match="schema.pbtxt"):
            run(spec, str(out), **options)
    finally:
        stop.set()
        thread.join()
    (out / "schema.pbtxt" / "in the way").rmdir()
    (out / "schema.pbtxt").rmdir()


def test_what_a_launcher_left_that_was_killed_in_the_end_is_removed(tmp_path):
    spec = start(tmp_path)
    out = tmp_path / "out"
    info = run(spec, str(out))
    (out / ".progress").mkdir()
    (out / ".progress" / "job.json").write_text("{}")
    assert run(spec, str(out)) == info
    assert not (out / ".progress").exists()
    (out / "dataset_info.json.1.tmp").write_text("{")
    assert run(spec, str(out), overwrite=True) == info
    assert not list(out.glob("*.tmp"))


def test_another_spec_starts_afresh(tmp_path):
    spec = start(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / ".progress").mkdir()
    run_until_it_fails(spec, out)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tfrecord")}
    assert len(before) == 6
    other = start(tmp_path, size=4)
    info = run(other, str(out))
    assert info["features"]["image"]["shape"] == [4, 4, 3]
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tfrecord")}
    assert sorted(after) == sorted(before)
    assert not set(after.values()) & set(before.values())


def test_another_body_of_a_function_is_another_spec(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    start(tmp_path, "float32")
    said = (tmp_path / "images.toml").read_text()
    function = 'preprocessing_function = "resumed:f"'
    path = tmp_path / "images.toml"
    path.write_text(said.replace("featurewise_center = true", function))

    def edited(body):
        sys.modules.pop("resumed", None)
        image_normalization.function_batch.cache_clear()
        imports = "import numpy as np, tensorflow as tf\n"
        (tmp_path / "resumed.py").write_text(f"{imports}def f(x):\n    return {body}\n")
        return load_spec(str(path))

    def written():
        return {path.name: path.stat().st_mtime_ns for path in out.glob("*.tfrecord")}

    doubled = "tf.cast(x, tf.float32) * np.full((8, 8, 3), 2, np.float32)"
    out = tmp_path / "out"
    (out / ".progress").mkdir(parents=True)
    run_until_it_fails(edited("tf.cast(x, tf.float32)"), out)
    before = written()
    info = run(edited(doubled), str(out))
    after = written()
    assert sorted(after) == sorted(before) and not set(after.values()) & set(before.values())
    assert run(edited(f"({doubled})"), str(out)) == info
    for other in ("tf.cast(x, tf.float32)", doubled.replace("2,", "333,")):
        with pytest.raises(SpecError, match="made of another spec"):
            run(edited(other), str(out))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"spec_digest": 1}'])
def test_damaged_notes_of_an_earlier_try_start_afresh(damage, tmp_path):
    spec = start(tmp_path)
    out = tmp_path / "out"
    (out / ".progress").mkdir(parents=True)
    run_until_it_fails(spec, out)
    notes = [out / ".progress" / "job.json", *(out / ".progress").glob("*.tfrecord.json")]
    assert len(notes) == 7
    for note in notes:
        note.write_bytes(damage)
    info = run(spec, str(out))
    assert verify(str(out)) == []
    assert info["splits"]["train"]["num_examples"] > 0


@pytest.mark.parametrize("damage", [b"", b"{", b"[]"])
def test_a_damaged_manifest_is_replaced_when_asked(damage, tmp_path):
    spec = start(tmp_path)
    out = tmp_path / "out"
    before = run(spec, str(out))
    manifest = out / "dataset_info.json"
    manifest.write_bytes(damage)
    message = "dataset_info.json: is damaged. Give --overwrite to make the dataset again."
    with pytest.raises(SpecError, match=message):
        run(spec, str(out))
    assert run(spec, str(out), overwrite=True) == before
