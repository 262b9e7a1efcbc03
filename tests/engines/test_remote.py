"""The trainer's copies of datasets on object stores: what it fetches, checks and says."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from oracle.command import ROOT

from engines import object_stores
from trainer import dataset_info, input_pipeline, model_dataset, remote
from trainer import object_stores as clients
from trainer.errors import DatasetError, UsageError
from trainer.input_pipeline import Options

pytestmark = pytest.mark.runs("adult-made")


@pytest.fixture(scope="module", params=object_stores.START)
def server(request, tmp_path_factory):
    with object_stores.START[request.param](tmp_path_factory.mktemp("store")) as started:
        yield started


@pytest.fixture
def store(server, monkeypatch):
    """The server of an object store, where this process and those it starts will look."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    clients._made.cache_clear()
    yield server
    clients._made.cache_clear()


@pytest.fixture(scope="module")
def place(server, runs):
    """The URL of a dataset in the store."""
    server.create_bucket("datasets")
    url = f"{server.scheme}://datasets/some where/adult"
    object_stores.upload(server, runs["adult-made"].folder, url)
    return url


@pytest.fixture
def info(store, place, runs):
    """The dataset, as it is read from there."""
    folder = runs["adult-made"].folder
    assert clients.read(f"{place}/dataset_info.json") == (folder / "dataset_info.json").read_bytes()
    return dataclasses.replace(dataset_info.read(folder), directory=place)


def files(folder):
    found = {p.relative_to(folder).as_posix(): p for p in Path(folder).rglob("*") if p.is_file()}
    del found[".lock"]
    return {name: path.read_bytes() for name, path in found.items()}


def test_what_a_store_holds_is_copied_once(info, store, runs, tmp_path, capsys):
    run = runs["adult-made"]
    shards = [shard["file"] for shard in run.manifest["splits"]["train"]["shards"]]
    copied = remote.cached(info, "train", tmp_path / "cache")
    assert len(shards) > 1
    assert files(copied.directory) == {name: (run.folder / name).read_bytes() for name in shards}
    num_bytes = sum(shard["bytes"] for shard in run.manifest["splits"]["train"]["shards"])
    assert capsys.readouterr().err == (
        f"caching {num_bytes / 1e6:.1f} MB of {info.directory}/train in {copied.directory}\n"
    )
    num_requests = len(getattr(store, "requests", []))
    assert remote.cached(info, "train", tmp_path / "cache") == copied
    assert len(getattr(store, "requests", [])) == num_requests
    local = remote.fetch(info, list(info.splits), tmp_path / "cache")
    assert local == copied.directory
    wanted = {
        path.relative_to(run.folder).as_posix(): path.read_bytes()
        for path in run.folder.rglob("*")
        if path.is_file()
    }
    fetched = files(local)
    assert fetched == {name: wanted[name] for name in fetched}
    left_out = {name.split("/")[0] for name in wanted.keys() - fetched.keys()}
    vocabularies = {name for name in left_out if name.startswith("vocabulary-")}
    assert len(vocabularies) == 8  # For people and later runs: transform_fn has its own.
    assert left_out - vocabularies <= {
        "transformed_metadata",
        "schema.pbtxt",
        "statistics.pb",
        "rejected",
    }
    assert "transform_fn/saved_model.pb" in fetched


def test_a_model_keeps_the_transform_fn_of_a_dataset_in_a_store(info, store, runs, tmp_path):
    model_dataset.keep(str(tmp_path), info)
    transform_fn = runs["adult-made"].folder / "transform_fn"
    for path in (path for path in transform_fn.rglob("*") if path.is_file()):
        kept = tmp_path / "dataset" / "transform_fn" / path.relative_to(transform_fn)
        assert kept.read_bytes() == path.read_bytes()
    kept = model_dataset.read(str(tmp_path))
    assert kept.spec == runs["adult-made"].manifest["spec"] and kept.info.splits == {}
    assert model_dataset.read(str(tmp_path / "absent"), info.directory).spec == kept.spec


def test_batches_from_a_store_are_those_of_the_folder(store, place, runs, tmp_path):
    def batches(directory, cache=None):
        options = Options(seed=3, epochs=1, cache=cache)
        found = list(input_pipeline.load(directory, "train", 64, options).as_numpy_iterator())
        assert len(found) > 10
        return [(features["age"].tolist(), label.tolist()) for features, label in found]

    expected = batches(str(runs["adult-made"].folder))
    assert batches(place, cache=str(tmp_path / "cache")) == expected
    if store.scheme == "s3":
        with pytest.raises(UsageError, match="cannot read s3://. Give a folder"):
            batches(place)
    with pytest.raises(UsageError, match=f"{place}/none: is not a finished dataset"):
        batches(f"{place}/none", cache=str(tmp_path / "cache"))


def test_a_damaged_object_is_named(info, store, tmp_path):
    shard = info.split("train").shards[0]
    sound = store.read(info.path(shard))
    for damaged, wanted in (
        (sound[:-1], f"must have {len(sound)} bytes, but has {len(sound) - 1}"),
        (bytes([sound[0] ^ 1]) + sound[1:], f"crc32c must be {shard.crc32c}, but is "),
    ):
        store.write(info.path(shard), damaged)
        try:
            with pytest.raises(DatasetError) as raised:
                remote.cached(info, "train", tmp_path / "cache", verbose=False)
        finally:
            store.write(info.path(shard), sound)
        assert str(raised.value).startswith(f"{info.path(shard)}: {wanted}")
        (folder,) = (tmp_path / "cache").iterdir()
        assert shard.file not in files(folder)
    copied = remote.cached(info, "train", tmp_path / "cache", verbose=False)
    assert files(copied.directory)[shard.file] == sound


def test_what_is_not_there(info, store, tmp_path):
    scheme = store.scheme
    for directory in (f"{scheme}://datasets/nothing", f"{scheme}://no-such-bucket/adult"):
        with pytest.raises(FileNotFoundError, match=f"{directory}/dataset_info.json: is missing"):
            clients.read(f"{directory}/dataset_info.json")
        gone = dataclasses.replace(info, directory=directory)
        with pytest.raises(DatasetError, match=f"^{directory}/train-0.*: is missing. Run"):
            remote.cached(gone, "train", tmp_path / "cache", verbose=False)


READ = """
import sys
from trainer import object_stores as clients
from trainer.errors import UsageError
try:
    clients.read(sys.argv[1])
except UsageError as error:
    print(error)
"""


def said(url, variables):
    """What reading an object ends with, in another process."""
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-c", READ, url]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return done.stdout


def test_a_store_that_refuses_or_does_not_answer(store, place, tmp_path):
    url = f"{place}/dataset_info.json"
    if store.scheme == "s3":
        silent = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
        cases = {
            "InvalidAccessKeyId": {"AWS_ACCESS_KEY_ID": "AKIAOTHER"},
            "Unable to locate credentials": {"AWS_ACCESS_KEY_ID": "", "HOME": str(tmp_path)},
            "Could not connect to the endpoint": silent,
            "Invalid endpoint": {"AWS_ENDPOINT_URL_S3": "nowhere"},
        }
    else:
        account = json.loads(Path(os.environ["GOOGLE_APPLICATION_CREDENTIALS"]).read_text())
        account["token_uri"] = account["token_uri"].replace("/token", "/nothing")
        account["client_email"] = "nobody@example.com"
        key = tmp_path / "key.json"
        key.write_text(json.dumps(account))
        nobody = {"HOME": str(tmp_path), "GOOGLE_APPLICATION_CREDENTIALS": ""}
        cases = {
            "Google's credentials are missing or wrong: ": {
                "GOOGLE_APPLICATION_CREDENTIALS": str(key)
            },
            "Google's credentials are missing or wrong: Your default": nobody,
            "127.0.0.1": {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:9"},
        }
    for wanted, variables in cases.items():
        text = said(url, variables)
        assert text.startswith(f"{url}: ") and wanted in text, (wanted, text)
        assert store.secret not in text


def test_a_cache_that_is_full_leaves_nothing_behind(info, tmp_path):
    """On a disk that fills up while it is copied to, as far as that can be had: a file limit."""
    code = (
        "import dataclasses, resource, signal, sys\n"
        "from trainer import dataset_info, remote\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "info = dataset_info.read(sys.argv[1])\n"
        "info = dataclasses.replace(info, directory=sys.argv[2])\n"
        "remote.cached(info, 'train', sys.argv[3], verbose=False)\n"
    )
    local = tmp_path / "manifest"
    local.mkdir()
    (local / "dataset_info.json").write_bytes(clients.read(f"{info.directory}/dataset_info.json"))
    command = [sys.executable, "-c", code, str(local), info.directory, str(tmp_path / "cache")]
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=100)
    last = done.stderr.splitlines()[-1]
    assert "UsageError" in last and "the cache cannot be used: File too large" in last
    (folder,) = (tmp_path / "cache").iterdir()
    assert files(folder) == {}
