"""Where the workers list the input: what a user sees is what the launcher says of it locally."""

import json
import os
import platform

import apache_beam as beam
import pytest
from test_resume import run_until_it_fails, set_aside, start

from beam_jobs import pipeline, rows
from beam_jobs.config import load_spec
from beam_jobs.errors import DataError, SpecError
from beam_jobs.job import Job
from beam_jobs.run import _reachable, run
from beam_jobs.shards import ShardWriter
from beam_jobs.sources import listing, units

CLUSTER = "FnApiRunner"  # A runner like any other: no disk that all workers share, no local engine.


def with_paths(folder, *paths):
    spec = (folder / "images.toml").read_text()
    (folder / "images.toml").write_text(spec.replace('["images"]', json.dumps(paths)))
    return load_spec(str(folder / "images.toml"))


def test_the_dataset_is_the_local_one(tmp_path):
    spec = start(tmp_path)
    local = run(spec, str(tmp_path / "local"))
    found = run(spec, str(tmp_path / "cluster"), runner=CLUSTER)
    assert found == local
    assert found["read"] == 60 and len(found["input_fingerprint"]) == 32
    assert set_aside(tmp_path / "cluster") == set_aside(tmp_path / "local")


@pytest.mark.parametrize(
    "paths, message",
    [
        (["images", "no*"], "source.paths: '{0}/no*' matches no file. Correct the path."),
        (
            ["images/a/0.png", "images"],
            "source.paths: '{0}/images/a/0.png' is matched twice. Name it once.",
        ),
        (
            ["images", "other"],
            "source.paths: '{0}/images/a/8.png' and '{0}/other/a/8.png' have one relative path, "
            "'a/8.png', which is their key. Move one of the roots up.",
        ),
        (
            ["images", b"caf\xe9"],
            "source.paths: the file name {1} is not UTF-8. Rename it.",
        ),
    ],
    ids=["nothing", "twice", "one key", "no text"],
)
@pytest.mark.parametrize("runner", ["local", CLUSTER])
def test_what_is_wrong_with_the_paths_is_one_line(runner, paths, message, tmp_path):
    start(tmp_path)
    (tmp_path / "other" / "a").mkdir(parents=True)
    (tmp_path / "other" / "a" / "8.png").touch()
    name = None
    if isinstance(paths[1], bytes):
        (tmp_path / "caf").mkdir()
        name = os.fsencode(tmp_path) + b"/caf/" + paths[1]
        with open(name, "wb"):
            pass
        paths = [paths[0], "caf"]
    spec = with_paths(tmp_path, *paths)
    with pytest.raises(SpecError) as error:
        run(spec, str(tmp_path / "out"), runner=runner)
    said = str(error.value).partition(" [while running")[0]  # As the command line has it.
    wanted = message.format(tmp_path, repr(name))
    if runner == CLUSTER and "matches no file" in message:
        wanted = f"on {platform.node()}: {wanted}"  # Where it may lie elsewhere.
    assert said == wanted


def test_a_finished_dataset_is_left_and_another_input_is_told(tmp_path):
    spec, out = start(tmp_path), tmp_path / "out"
    before = run(spec, str(out), runner=CLUSTER)
    when = (out / "dataset_info.json").stat().st_mtime_ns
    assert run(spec, str(out), runner=CLUSTER) == before
    assert (out / "dataset_info.json").stat().st_mtime_ns == when
    (tmp_path / "images" / "a" / "0.png").touch()
    with pytest.raises(SpecError, match="made of another input. Give another folder, or --over"):
        run(spec, str(out), runner=CLUSTER)


def test_finished_shards_stay(tmp_path):
    spec, out = start(tmp_path), tmp_path / "out"
    whole = run(spec, str(tmp_path / "whole"), runner=CLUSTER)
    (out / ".progress").mkdir(parents=True)
    run_until_it_fails(spec, out, runner=CLUSTER)
    shards = sorted(out.glob("*.tfrecord"))
    before = {path: path.stat().st_mtime_ns for path in shards}
    shards[0].write_bytes(b"damaged")
    assert run(spec, str(out), runner=CLUSTER)["splits"] == whole["splits"]
    assert [path for path in shards if path.stat().st_mtime_ns == before[path]] == shards[1:]


def test_an_input_that_changes_meanwhile_is_an_error(tmp_path):
    spec = start(tmp_path)
    job = Job(spec, str(tmp_path / "out"), None, 2, 1)
    (tmp_path / "out" / ".progress").mkdir(parents=True)
    job.save_state({"input_fingerprint": "of before", "finished": []})
    graph = beam.Pipeline("FnApiRunner")
    pipeline.build_images(graph, job)
    with pytest.raises(DataError, match="the input changed while it was listed. Run again"):
        graph.run().wait_until_finish()


@pytest.mark.parametrize("temp_folder", [None, "/tmp/shared"], ids=["cluster", "local"])
@pytest.mark.parametrize("kind", ["images", "csv"])
def test_the_graph_does_not_grow_with_the_input(kind, temp_folder, tmp_path):
    sizes = []
    for number in (3, 3_000):
        folder = tmp_path / f"{number:04d}"
        (folder / "d").mkdir(parents=True)
        for index in range(number):
            (folder / "d" / f"{index}.csv").write_text("x\n1\n")
        spec = load_spec(str(_spec(folder, kind)))
        job = Job(spec, str(folder / "out"), temp_folder, 2, 1)
        finished = [f"train-{shard:05d}-of-03000.tfrecord" for shard in range(number)]
        (folder / "out" / ".progress").mkdir(parents=True)
        job.save_state({"input_fingerprint": None, "finished": finished})
        graph = beam.Pipeline("FnApiRunner")
        if kind == "images":
            job.save_listing(units.list_source(spec.source))
            pipeline.build_images(graph, job)
        else:
            job.save_listing(units.of_files(listing.list_files(spec.source)))
            pipeline.build_table(graph, rows.plan(spec, ("x",)), job)
        sizes.append(len(graph.to_runner_api().SerializeToString()))
    assert abs(sizes[0] - sizes[1]) < 200 and sizes[0] > 10_000


def _spec(folder, kind):
    features = {"images": "image = { size = [8, 8] }", "csv": 'x = { dtype = "float32" }'}
    (folder / "spec.toml").write_text(
        f'name = "made"\n[source]\nformat = "{kind}"\npaths = ["d"]\n[split]\n'
        f"fractions = {{ train = 1.0 }}\n[features]\n{features[kind]}\n"
    )
    return folder / "spec.toml"


def test_a_listing_that_is_gone_is_an_error(tmp_path):
    job = Job(start(tmp_path), str(tmp_path / "out"), None, 2, 1)
    with pytest.raises(DataError) as error:
        job.listed()
    assert str(error.value) == (
        f"{tmp_path}/out/.progress/listing.json: is gone, or {platform.node()} does not see it. "
        "Run one job at a time in a folder, and give one that all workers share."
    )


def test_a_job_ends_when_another_one_has_started_in_its_folder(tmp_path):
    """A cluster goes on with a job whose launcher was killed."""
    out = tmp_path / "out"
    spec = start(tmp_path)
    first, second = (Job(spec, str(out), None, 2, 1, name) for name in ("first", "second"))
    (out / ".progress").mkdir(parents=True)
    state = {"spec_digest": "", "versions": {}, "input_fingerprint": None, "finished": []}
    first.save_state(state)
    assert first.state() == {**state, "id": "first"}
    with ShardWriter(str(out), "train-00000-of-00001.tfrecord", None) as writer:
        second.save_state(state)
        with pytest.raises(DataError, match="another job has started in this folder"):
            first.publish(writer)
    assert not list(out.glob("train-*"))
    with pytest.raises(DataError, match="another job has started in this folder"):
        assert first.finished


@pytest.mark.parametrize(
    ("runner", "output", "wanted"),
    [
        ("local", "out", "out"),
        ("FnApiRunner", "out", "{here}/out"),
        ("flink", "/data/out", "/data/out"),
        ("flink", "gs://bucket/out", "gs://bucket/out"),
    ],
)
def test_workers_elsewhere_are_given_the_whole_path(runner, output, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _reachable(output, runner) == wanted.format(here=tmp_path)
