"""Copies of datasets on this machine's disk; tests/engines does the same with object stores."""

import concurrent.futures
import dataclasses
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainer import dataset_info, object_stores, remote
from trainer.errors import DatasetError, UsageError

_ROOT = Path(__file__).parents[2]
_FEATURES = {
    "size": {"dtype": "float32", "shape": [], "stored_as": "float_list", "normalized": True}
}


@pytest.fixture(name="info")
def fixture_info(tmp_path, write_dataset):
    """A dataset of two splits, three and two shards, with a transform_fn."""
    rng = np.random.default_rng(1)
    splits = {
        "train": [{"size": value} for value in rng.normal(size=60)],
        "test": [{"size": value} for value in rng.normal(size=20)],
    }
    folder = write_dataset(tmp_path / "data", splits, _FEATURES, None)
    (folder / "transform_fn" / "variables").mkdir(parents=True)
    (folder / "transform_fn" / "saved_model.pb").write_bytes(b"graph")
    (folder / "transform_fn" / "variables" / "variables.index").write_bytes(b"index")
    return dataset_info.read(folder)


def _files(folder):
    """What lies below a folder, but for the lock."""
    found = {p.relative_to(folder).as_posix(): p for p in Path(folder).rglob("*") if p.is_file()}
    assert found.pop(".lock").stat().st_size == 0
    return {name: path.read_bytes() for name, path in found.items()}


def _sizes(info, split):
    return sum(os.path.getsize(info.path(shard)) for shard in info.split(split).shards)


def test_a_split_is_copied_once(info, tmp_path, capsys):
    cache = tmp_path / "cache"
    copied = remote.cached(info, "train", cache)
    assert dataclasses.replace(copied, directory=info.directory) == info
    assert Path(copied.directory).parent == cache
    said = capsys.readouterr().err
    size = f"{_sizes(info, 'train') / 1e6:.1f} MB"
    assert said == f"caching {size} of {info.directory}/train in {copied.directory}\n"
    files = _files(copied.directory)
    assert len(files) == 3
    assert files == {name: Path(info.directory, name).read_bytes() for name in files}
    before = {name: Path(copied.directory, name).stat() for name in files}
    shutil.move(info.directory, tmp_path / "gone")
    assert remote.cached(info, "train", cache) == copied
    assert {name: Path(copied.directory, name).stat()[:8] for name in files} == {
        name: stat[:8] for name, stat in before.items()
    }
    assert capsys.readouterr().err == ""


def test_only_what_is_damaged_is_copied_again(info, tmp_path, capsys):
    copied = remote.cached(info, "train", tmp_path / "cache", verbose=False)
    files = _files(copied.directory)
    first, second = (Path(copied.path(shard)) for shard in info.split("train").shards[:2])
    data = bytearray(first.read_bytes())
    data[50] ^= 1
    first.write_bytes(data)
    inode = second.stat().st_ino
    Path(copied.directory, ".partial-" + second.name).write_bytes(b"of a killed run")
    remote.cached(info, "train", tmp_path / "cache")
    size = f"{first.stat().st_size / 1e6:.1f} MB"
    assert capsys.readouterr().err.startswith(f"caching {size} of ")
    assert {name: data for name, data in _files(copied.directory).items() if name in files} == files
    assert second.stat().st_ino == inode


def test_a_whole_dataset_is_copied(info, tmp_path):
    local = remote.fetch(info, ["train", "test"], tmp_path / "cache", verbose=False)
    wanted = Path(info.directory)
    assert _files(local) == {
        p.relative_to(wanted).as_posix(): p.read_bytes() for p in wanted.rglob("*") if p.is_file()
    }
    again = dataset_info.read(local)
    assert dataclasses.replace(again, directory=info.directory) == info


def test_datasets_of_one_name_do_not_meet(info, tmp_path):
    other = tmp_path / "elsewhere"
    shutil.copytree(info.directory, other)
    copied = remote.cached(info, "test", tmp_path / "cache", verbose=False)
    copy = remote.cached(dataset_info.read(other), "test", tmp_path / "cache", verbose=False)
    assert copy.directory != copied.directory


@pytest.mark.parametrize("fault", ["cut", "changed", "missing"])
def test_a_damaged_file_is_named_and_not_kept(fault, info, tmp_path):
    shard = info.split("train").shards[1]
    path = Path(info.path(shard))
    data = bytearray(path.read_bytes())
    wanted = {
        "cut": f"must have {len(data)} bytes, but has {len(data) - 1}",
        "changed": f"crc32c must be {shard.crc32c}, but is ",
        "missing": "is missing",
    }[fault]
    data[20] ^= 1
    path.write_bytes(data[:-1] if fault == "cut" else data)
    if fault == "missing":
        path.unlink()
    with pytest.raises(DatasetError, match=f"^{path}: {wanted}.*--overwrite") as raised:
        remote.cached(info, "train", tmp_path / "cache", verbose=False)
    assert "\n" not in str(raised.value)
    (folder,) = (tmp_path / "cache").iterdir()
    assert shard.file not in _files(folder) and not list(folder.glob(".partial*"))


def test_a_disk_that_is_too_small(info, tmp_path):
    manifest = Path(info.directory, "dataset_info.json")
    text = json.loads(manifest.read_text())
    text["splits"]["train"]["shards"][0]["bytes"] = 10**18
    manifest.write_text(json.dumps(text))
    info = dataset_info.read(info.directory)
    wanted = r"caching train of .*/data needs 1,000,000,000.0 GB, but the disk has [\d.,]+ GB left"
    with pytest.raises(UsageError, match=wanted):
        remote.cached(info, "train", tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    assert _files(folder) == {}


def test_a_cache_that_is_no_folder(info, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file/handmade-.*: the cache cannot be used: Not a dir"):
        remote.cached(info, "train", tmp_path / "file")


def test_a_split_that_is_not_there(info, tmp_path):
    with pytest.raises(UsageError, match="there is no split 'all'; the splits are train, test"):
        remote.cached(info, "all", tmp_path / "cache")


def test_who_wants_the_same_waits(info, tmp_path):
    target = Path(remote._target(info, tmp_path / "cache"))
    target.mkdir(parents=True)
    with concurrent.futures.ThreadPoolExecutor() as pool, open(target / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # As another process that copies.
        copied = pool.submit(remote.cached, info, "train", tmp_path / "cache")
        with pytest.raises(concurrent.futures.TimeoutError):
            copied.result(timeout=0.5)
        assert _files(target) == {}
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert copied.result(timeout=60).directory == str(target)
    assert len(_files(target)) == 3


@pytest.mark.parametrize(
    "path, is_remote",
    [("gs://a/b", True), ("s3://a/b", True), ("/gs://a", False), ("data", False)],
)
def test_what_is_remote(path, is_remote):
    assert object_stores.is_remote(path) == is_remote
    assert object_stores.is_remote(Path("data")) is False


@pytest.mark.parametrize("url", ["gs://bucket", "s3://bucket/", "s3:///folder"])
def test_a_url_without_a_folder(url):
    with pytest.raises(UsageError, match=f"{url}: must name what is in a bucket, as gs://bucket/"):
        object_stores.read(url)


@pytest.mark.parametrize("scheme, module", [("gs", "google.cloud.storage"), ("s3", "boto3")])
def test_a_client_that_is_not_installed(scheme, module):
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from trainer import object_stores\n"
        f"object_stores.read('{scheme}://bucket/folder')\n"
    )
    settings = {**os.environ, "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=settings, capture_output=True, text=True
    )
    package = {"gs": "google-cloud-storage", "s3": "boto3"}[scheme]
    assert done.stderr.splitlines()[-1] == (
        f"trainer.errors.UsageError: {scheme}://bucket/folder: {scheme}:// needs {package}. "
        f"Install headrace with its extra `{scheme}`."
    )
