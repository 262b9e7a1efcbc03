"""Input and output in an object store: the bytes of a local run, and never half a dataset."""

import concurrent.futures
import contextlib
import gzip
import itertools
import json
import os
import signal
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import test_image_tables
from apache_beam.internal.gcp import auth
from apache_beam.io.filesystems import FileSystems
from oracle import compare, specs, visits
from oracle.command import LIMIT_SECONDS, arguments, headrace

from beam_jobs import engines, files
from beam_jobs.config import Source, load_spec
from beam_jobs.errors import SpecError
from beam_jobs.run import run
from beam_jobs.shards import ShardWriter, frame_records, framed_sizes
from beam_jobs.sources import formats, listing
from beam_jobs.verify import verify
from engines import object_stores

CLUSTER = ("--runner", "FnApiRunner")
SMALL = """\
name = "small"
[source]
format = "csv"
paths = ["@URL@/table.csv"]
header = true
[split]
fractions = { train = 0.6, validation = 0.2, test = 0.2 }
[features]
x = { dtype = "float32", transform = "scale_to_z_score" }
[output]
num_shards = @SHARDS@
compression = "none"
"""
_bucket_numbers = itertools.count()


@pytest.fixture(scope="module", params=object_stores.START)
def server(request, tmp_path_factory):
    with object_stores.START[request.param](tmp_path_factory.mktemp("store")) as started:
        yield started


@pytest.fixture
def store(server, monkeypatch):
    """The server of an object store, where this process and the commands it starts will look."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    # Beam keeps the first credentials that a process finds.
    monkeypatch.setattr(auth._Credentials, "_credentials_init", False)
    monkeypatch.setattr(FileSystems, "_pipeline_options", engines.options("local"))
    yield server
    server.read_only.clear()


@pytest.fixture
def bucket(store):
    """A new bucket's name."""
    name = f"bucket-{next(_bucket_numbers)}"
    store.create_bucket(name)
    return name


@pytest.fixture
def small(store, bucket, tmp_path):
    """Uploads a small table; returns a function that makes a spec of it."""
    rows = "".join(f"{value}\n" for value in range(500))
    store.write(f"{store.scheme}://{bucket}/in/table.csv", f"x\n{rows}".encode())

    def write(num_shards=2):
        path = tmp_path / f"small-{num_shards}.toml"
        text = SMALL.replace("@URL@", f"{store.scheme}://{bucket}/in")
        path.write_text(text.replace("@SHARDS@", str(num_shards)))
        return load_spec(str(path))

    return write


def output_bucket(store):
    name = f"bucket-{next(_bucket_numbers)}"
    store.create_bucket(name)
    return name, f"{store.scheme}://{name}/out"


def uploaded(run, store, folder):
    """Uploads a local run's input; returns the spec that reads it there."""
    name = f"bucket-{next(_bucket_numbers)}"
    store.create_bucket(name)
    root = run.case.root or run.case.files[0].parent
    object_stores.upload(store, root, f"{store.scheme}://{name}/in")
    spec = folder / f"{name}.toml"
    spec.write_text(run.case.text.replace(str(root), f"{store.scheme}://{name}/in"))
    return spec


def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.runs("adult-made", "cifar10-made", "photos-made")  # A table; uint8; float32.
@pytest.mark.parametrize("name", ["adult-made", "cifar10-made", "photos-made"])
def test_a_store_holds_the_bytes_of_a_local_run(name, runs, store, tmp_path, say):
    wanted = runs[name]
    spec = uploaded(wanted, store, tmp_path)
    shards = compare.bytes_of_shards(wanted.folder, wanted.manifest)
    assert sum(num_examples > 0 for num_examples, *_ in shards.values()) > 3
    outputs = {(): output_bucket(store), CLUSTER: output_bucket(store)}

    def made(words):
        given = [*wanted.case.arguments(), *words]
        return headrace("run", spec, "--output", outputs[words][1], "--quiet", *given)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for words, done in zip(outputs, pool.map(made, outputs), strict=True):
            assert (done.returncode, done.stdout) == (0, ""), words
    for words, (bucket, _) in outputs.items():
        made = object_stores.download(store, bucket, tmp_path / bucket) / "out"
        manifest = json.loads((made / "dataset_info.json").read_text())
        is_same = compare.bytes_of_shards(made, manifest) == shards
        say(f"{store.scheme}://", "same bytes" if is_same else "OTHER BYTES")
        assert is_same, words
        for key in ("read", "rejected", "features", "label", "splits"):
            assert manifest[key] == wanted.manifest[key], words
        assert names_in(made) == names_in(wanted.folder), words
        for file in ("schema.pbtxt", "statistics.pb"):
            assert (made / file).read_bytes() == (wanted.folder / file).read_bytes()
        everything = b"".join(path.read_bytes() for path in made.rglob("*") if path.is_file())
        assert store.secret.encode() not in everything


def test_later_data_take_the_transform_of_a_dataset_in_a_store(small, store, bucket, tmp_path):
    before = f"{store.scheme}://{bucket}/before"
    run(small(), before)
    path = tmp_path / "later.toml"
    text = (tmp_path / "small-2.toml").read_text()
    parts = "fractions = { train = 0.6, validation = 0.2, test = 0.2 }"
    path.write_text(text.replace(parts, "fractions = { test = 1 }"))
    spec, later = load_spec(str(path), learns=False), f"{store.scheme}://{bucket}/later"
    wanted = run(spec, str(tmp_path / "later"), transform_from=before)
    assert run(spec, later, transform_from=before, runner="FnApiRunner") == wanted
    assert verify(later) == []
    assert names_in(object_stores.download(store, bucket, tmp_path / "all") / "later") == names_in(
        tmp_path / "later"
    )
    with pytest.raises(SpecError, match="is the output folder, too"):
        run(spec, f"{before}/", transform_from=before)


def test_arrays_in_a_store_are_ingested_where_all_workers_find_them(store, bucket, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(500) / 8)
    store.write(f"{store.scheme}://{bucket}/in/a.npz", (tmp_path / "a.npz").read_bytes())
    text = SMALL.replace("csv", "numpy", 1).replace("header = true\n", "").replace("@SHARDS@", "2")
    for name, path in (("here", "a.npz"), ("there", f"{store.scheme}://{bucket}/in/*.npz")):
        (tmp_path / f"{name}.toml").write_text(text.replace("@URL@/table.csv", path))
    here, there = (load_spec(str(tmp_path / f"{name}.toml")) for name in ("here", "there"))
    wanted = run(here, str(tmp_path / "out"))

    for runner in ("local", "FnApiRunner"):
        other, url = output_bucket(store)
        info = run(there, url, runner=runner)

        assert info["splits"] == wanted["splits"], runner  # With the CRC of each shard.
        assert not [name for name in store.names(other) if ".progress" in name]


@pytest.mark.parametrize("write", [test_image_tables.write_csv, test_image_tables.write_parquet])
def test_images_of_a_table_lie_beside_it_or_in_it(write, store, bucket, tmp_path, say):
    home = tmp_path / "home"
    if write is test_image_tables.write_csv:
        table = write(
            home, [(3, "photo", "pictures/none.png"), (4, "photo", "../home/pictures/4.png")]
        )
    else:
        table = write(home)
    photo = 'store = "float32"\nfeaturewise_center = true'
    local = run(test_image_tables.spec_of(table, photo), str(tmp_path / "local"))
    url = f"{store.scheme}://{bucket}"
    object_stores.upload(store, home, f"{url}/home")
    text = (home / "spec.toml").read_text().replace(table.name, f"{url}/home/{table.name}")
    (tmp_path / "there.toml").write_text(text)
    for runner in ("local", "FnApiRunner"):
        out = f"{url}/{runner}"
        made = run(load_spec(str(tmp_path / "there.toml")), out, runner=runner)
        is_same = made["splits"] == local["splits"] and made["features"] == local["features"]
        say(f"{store.scheme}://", "same bytes" if is_same else "OTHER BYTES")
        assert is_same and made["rejected"] == local["rejected"]
    assert local["rejected"] == ({"missing_file_photo": 1} if table.suffix == ".csv" else {})
    assert not [name for name in store.names(bucket) if ".progress" in name]


@contextlib.contextmanager
def watched(store, bucket):
    """Yields a list that grows by every other set of names that is seen in a bucket."""
    seen, stop = [], threading.Event()

    def watch():
        while not stop.is_set():
            names = set(store.names(bucket))
            if not seen or names != seen[-1]:
                seen.append(names)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        watching = pool.submit(watch)
        try:
            yield seen
        finally:
            stop.set()
        watching.result()


def test_a_manifest_is_there_only_with_all_that_it_lists(store, small):
    bucket, url = output_bucket(store)
    complete = []
    with watched(store, bucket) as seen:
        for num_shards, runner in ((3, "local"), (5, "FnApiRunner"), (2, "local")):
            run(small(num_shards), url, runner=runner, overwrite=True)
            complete.append(set(store.names(bucket)))
    shards = [sum(name.endswith(".tfrecord") for name in names) for names in complete]
    assert shards == [9, 15, 6]
    num_partial = 0
    for names in seen:
        dataset = {name for name in names if ".progress" not in name}
        if "out/dataset_info.json" in names:
            assert dataset in complete
        else:
            num_partial += any(name.endswith(".tfrecord") for name in names)
    assert num_partial > 10  # It was looked at often enough.
    written = store.written(bucket)
    assert max(written.values()) == written["out/dataset_info.json"]


@pytest.mark.runs("adult-big")
def test_a_killed_run_goes_on(runs, store, tmp_path):
    undisturbed = runs["adult-big"]
    wanted = compare.bytes_of_shards(undisturbed.folder, undisturbed.manifest)
    spec = uploaded(undisturbed, store, tmp_path)
    bucket, url = output_bucket(store)
    words = ["run", spec, "--output", url, "--quiet", *undisturbed.case.arguments()]

    def noted():
        names = [name for name in store.names(bucket) if ".tfrecord" in name]
        notes = [name for name in names if name.endswith(".json")]
        return {"out/" + name.split("/")[-1].removesuffix(".json") for name in notes}

    until = time.monotonic() + LIMIT_SECONDS
    process = subprocess.Popen(**arguments(*words), start_new_session=True)
    while len(noted()) < 3 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.001)
    assert process.returncode is None
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept, before = noted(), store.written(bucket)
    assert 3 <= len(kept) < 12 and "out/dataset_info.json" not in before
    done = headrace(*words)
    assert (done.returncode, done.stdout) == (0, "")
    after = store.written(bucket)
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert not any(".progress" in name for name in after)
    made = object_stores.download(store, bucket, tmp_path / bucket) / "out"
    manifest = json.loads((made / "dataset_info.json").read_text())
    assert compare.bytes_of_shards(made, manifest) == wanted
    assert names_in(made) == names_in(undisturbed.folder)


def test_a_finished_dataset_stays_until_it_is_to_be_replaced(store, small, tmp_path):
    bucket, url = output_bucket(store)
    info = run(small(2), url)
    written = store.written(bucket)
    store.write(f"{url}/.progress/job.json", b"{}")  # As of a launcher that was killed here.
    assert run(small(2), url) == info
    assert store.written(bucket) == written
    with pytest.raises(SpecError, match=f"{url}: holds the dataset 'small', made of another spec"):
        run(small(3), url)
    assert store.written(bucket) == written
    again = run(small(3), url, overwrite=True)
    names = store.names(bucket)
    assert sum(".tfrecord" in name for name in names) == 9
    assert len(again["splits"]["train"]["shards"]) == 3 and verify(url) == []


def test_what_a_store_holds_can_be_verified_and_shown(store, small, tmp_path):
    _, url = output_bucket(store)
    run(small(2), url)
    sound = headrace("verify", url)
    assert (sound.returncode, sound.stdout) == (0, f"{url}: sound: 500 examples, 0.0 MB\n")
    shown = headrace("inspect", url, "-n", "1", "--output", tmp_path / "images")
    assert shown.returncode == 0
    assert shown.stdout.startswith("train record 0 (train-00000-of-00002.tfrecord, record 0)")
    shard = f"{url}/train-00001-of-00002.tfrecord"
    data = bytearray(store.read(shard))
    data[100] ^= 1
    store.write(shard, bytes(data))
    (problem,) = verify(url)
    assert problem.startswith("train-00001-of-00002.tfrecord: crc32c is ")


# Without boto3, as where the extra is not installed.
WITHOUT_BOTO3 = """\
import sys
sys.modules["boto3"] = None
from headrace.cli import command
command()
"""


def refused(store, small, tmp_path, case):
    """The words of a call that cannot work, what the answer must hold, and other variables."""
    bucket, url = output_bucket(store)
    scheme = store.scheme
    small(2)
    elsewhere, spec = f"{scheme}://no-such-bucket/out", tmp_path / "small-2.toml"
    if case == "an input bucket that is not there":
        text = spec.read_text().replace(f"{scheme}://bucket", f"{scheme}://no-bucket")
        spec.with_name("nowhere.toml").write_text(text)
        return ["run", spec.with_name("nowhere.toml"), "--output", url], "no-bucket", {}
    if case == "an output bucket that is not there":
        return ["run", spec, "--output", elsewhere], elsewhere, {}
    if case == "an output bucket that cannot be written":
        store.read_only.add(bucket)
        return ["run", spec, "--output", url], f"--output: '{url}' cannot be used: ", {}
    if case == "no folder for the shuffle":
        words = ["--temp-dir", "/no/such/folder"]
        return ["run", spec, "--output", url, *words], "/no/such/folder: No such file", {}
    if case == "an output that is a bucket":
        words = ["run", spec, "--output", f"{scheme}://{bucket}/"]
        return words, f"{scheme}://{bucket}/: must name what is in a bucket", {}
    nobody = {"AWS_ACCESS_KEY_ID": "AKIAOTHER"}
    if scheme == "gs":  # An account that nobody gives a token for.
        account = json.loads(Path(os.environ["GOOGLE_APPLICATION_CREDENTIALS"]).read_text())
        account["token_uri"] = account["token_uri"].replace("/token", "/nothing")
        (tmp_path / "key.json").write_text(json.dumps(account))
        nobody = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "key.json")}
    if case == "wrong credentials":
        return ["run", spec, "--output", url], REFUSALS[scheme], nobody
    return ["verify", url], REFUSALS[scheme], nobody


REFUSALS = {"gs": "Google's credentials are missing or wrong: ", "s3": "403"}
REFUSED = [
    "an input bucket that is not there",
    "an output bucket that is not there",
    "an output bucket that cannot be written",
    "no folder for the shuffle",
    "an output that is a bucket",
    "wrong credentials",
    "verify with wrong credentials",
]


def answer(words, variables):
    """Returns the exit status and what is printed."""
    call = arguments(*words)
    call["env"] |= variables
    done = subprocess.run(**call, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_what_a_store_refuses_is_said_in_a_line_before_any_work(store, small, tmp_path):
    calls = {case: refused(store, small, tmp_path, case) for case in REFUSED}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = {
            case: pool.submit(answer, words, variables)
            for case, (words, _, variables) in calls.items()
        }
    for case, (_, wanted, _) in calls.items():
        status, said = asked[case].result()
        assert status == 2 and wanted in said, (case, said)
        assert said.startswith("headrace: ") and said.count("\n") == 1, (case, said)
        assert store.secret not in said


@pytest.fixture
def s3(tmp_path):
    with object_stores.S3() as server:
        yield server


def test_s3_without_boto3_credentials_or_an_answer(s3, tmp_path):
    spec = tmp_path / "small.toml"
    spec.write_text(SMALL.replace("@URL@", "s3://there/in").replace("@SHARDS@", "1"))
    s3.create_bucket("there")
    s3.write("s3://there/in/table.csv", b"x\n" + b"".join(b"%d\n" % i for i in range(100)))
    run = ["run", spec, "--output", "s3://there/out", "--quiet"]
    nobody = {**s3.environment, "HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": ""}
    silent = {
        **s3.environment,
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_MAX_ATTEMPTS": "1",
    }
    said = {
        "Unable to locate credentials": answer(run, nobody),
        "Could not connect to the endpoint": answer(run, silent),
        "Could not connect to the endpoint URL": answer(["verify", "s3://there/out"], silent),
    }
    for wanted, (status, text) in said.items():
        assert status == 2 and wanted in text and text.count("\n") == 1, text
    call = arguments(*run)
    call["args"][1:3] = ["-c", WITHOUT_BOTO3]
    done = subprocess.run(**call, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        "headrace: s3://there/out: s3:// needs boto3. Install headrace with its extra `s3`.\n"
    )


def test_s3_takes_beams_flags_and_never_shows_the_secret(s3, tmp_path):
    spec = tmp_path / "small.toml"
    spec.write_text(SMALL.replace("@URL@", "s3://flags/in").replace("@SHARDS@", "1"))
    s3.create_bucket("flags")
    s3.write("s3://flags/in/table.csv", b"x\n" + b"".join(b"%d\n" % i for i in range(100)))
    flags = [
        *("--", f"--s3_endpoint_url={s3.url}", f"--s3_access_key_id={s3.key}"),
        *(f"--s3_secret_access_key={s3.secret}", "--s3_region_name=us-east-1"),
    ]
    nothing = {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    run = ["run", spec, "--output", "s3://flags/out", *flags]
    status, said = answer(run, nothing)
    assert status == 0, said
    s3.read_only.add("flags")
    refused_status, refused = answer([*run[:4], "--overwrite", *flags], nothing)
    assert refused_status == 2 and "Access Denied" in refused
    unknown_status, unknown = answer([*run, "--s3_secret_key=1"], nothing)
    assert unknown_status == 2 and "--s3_secret_key: " in unknown
    manifest = s3.read("s3://flags/out/dataset_info.json").decode()
    for text in (said, refused, unknown, manifest):
        assert s3.secret not in text


def test_tft_leaves_its_files_where_tensorflow_reaches_them(s3, tmp_path):
    spec = specs.with_paths(visits.BY_TFT, visits.write(tmp_path))
    (tmp_path / "visits.toml").write_text(spec)
    s3.create_bucket("visits")
    run = ["run", tmp_path / "visits.toml", "--output", "s3://visits/out", "--quiet"]
    assert answer([*run, "--runner", "FnApiRunner"], s3.environment) == (
        2,
        "headrace: preprocessing_fn: TFT leaves files in the output folder, by TensorFlow, "
        "which does not reach s3:// as 's3://visits/out' has it. Write to gs:// or a folder "
        "that all workers share, or run locally.\n",
    )
    assert not [path for method, path, _ in s3.requests if method == "PUT" and "out" in path]
    assert answer(run, s3.environment) == (0, "")  # Where the job's own disk serves.
    manifest = json.loads(s3.read("s3://visits/out/dataset_info.json"))
    assert manifest["features"]["browser"]["num_categories"] == 4


def test_a_block_is_a_range_of_an_object(s3, tmp_path):
    lines = [b"%d\n" % number for number in range(100_000, 190_000)]
    s3.create_bucket("ranges")
    s3.write("s3://ranges/in/table.csv", b"x\n" + b"".join(lines))
    spec = tmp_path / "small.toml"
    spec.write_text(SMALL.replace("@URL@", "s3://ranges/in").replace("@SHARDS@", "1"))
    run = ["run", spec, "--output", "s3://ranges/out", "--quiet", "--block-mb", "0.1"]
    assert answer(run, s3.environment) == (0, "")
    starts = [
        int(asked.removeprefix("bytes=").split("-")[0])
        for method, path, asked in s3.requests
        if method == "GET" and path.endswith("table.csv")
    ]
    blocks = sorted(set(starts) - {0})
    assert len(blocks) == 7  # 630,002 bytes, in pieces of up to 100,000.
    assert sorted(starts) == [0, 0, 0, *sorted(blocks * 2)]  # At 0, the header twice and the scan.


PIECE = np.random.default_rng(0).bytes(1 << 20)
NUM_PIECES = 18  # S3 gets parts of 5 MiB on the way, Cloud Storage of 16.


def _table_files(folder: Path) -> dict[str, list[Path]]:
    """A format and files of it, more than one block each."""
    table = pa.table({"x": np.arange(3000), "raw": [b"\xff%d" % i for i in range(3000)]})
    pq.write_table(table, folder / "t.parquet", row_group_size=1000)
    with pa.ipc.new_file(folder / "t.arrow", table.schema) as file:
        file.write_table(table, 1000)
    for name, compression in (("t.tfrecord", ""), ("t.tfrecord.gz", "GZIP")):
        with tf.io.TFRecordWriter(str(folder / name), compression) as file:
            for value in range(3000):
                example = tf.train.Example()
                example.features.feature["x"].int64_list.value.append(value)
                file.write(example.SerializeToString())
    with tarfile.open(folder / "t.tar", "w") as archive:
        for value in range(100):
            archive.addfile(tarfile.TarInfo(f"{value}.txt"))
    (folder / "t.txt").write_text("".join(f"line {i}\n" for i in range(3000)))
    (folder / "u.txt.gz").write_bytes(gzip.compress(b"a text\n"))
    texts = [folder / "t.txt", folder / "u.txt.gz"]
    return {
        "parquet": [folder / "t.parquet", folder / "t.arrow"],
        "tfrecord": [folder / "t.tfrecord", folder / "t.tfrecord.gz"],
        "webdataset": [folder / "t.tar"],
        "text": texts,
        "text files": texts,
    }


def test_files_of_every_format_are_read_as_from_a_disk(store, bucket, tmp_path):
    def read(kind: str, paths: list[str]) -> list[list]:
        source = Source(
            format=kind.split()[0],
            paths=tuple(paths),
            records="files" if kind == "text files" else "lines",
        )
        found = listing.list_files(source)
        scanned = [unit for file in found for unit in formats.scan([file], source, 5000)]
        structures = [
            structure
            for unit in formats.of(source).units(scanned)
            for structure in formats.of(source).read(unit, source)
        ]
        assert len(structures) > 1
        return [[*s.values.to_pylist(), *s.places.tolist()] for s in structures]

    for kind, files_of in _table_files(tmp_path).items():
        urls = [f"{store.scheme}://{bucket}/in/{path.name}" for path in files_of]
        for url, path in zip(urls, files_of, strict=True):
            store.write(url, path.read_bytes())
        assert read(kind, urls) == read(kind, [str(path) for path in files_of])


def test_a_file_that_is_given_up_never_appears(store, bucket):
    url = f"{store.scheme}://{bucket}/file"
    store.write(url, b"before")
    written = store.written(bucket)
    for num_pieces in (0, 1, NUM_PIECES):
        with pytest.raises(KeyError), files.created(url) as file:
            for _ in range(num_pieces):
                file.write(PIECE)
            raise KeyError
        del file
    with ShardWriter(
        f"{store.scheme}://{bucket}", "train-00000-of-00001.tfrecord", "none"
    ) as shard:
        for _ in range(NUM_PIECES):
            piece = pa.array([PIECE], pa.large_binary())
            shard.write(frame_records(piece), framed_sizes(piece))
    del shard
    assert store.written(bucket) == written and store.read(url) == b"before"
    if store.scheme == "s3":
        assert store.unfinished_uploads(bucket) == []


def test_a_file_that_is_refused_half_way_never_appears(store, bucket):
    url = f"{store.scheme}://{bucket}/file"
    with pytest.raises(Exception, match=r"40\d|denied|does not have"), files.created(url) as file:
        for number in range(2 * NUM_PIECES):
            if number == NUM_PIECES:
                assert store.scheme == "gs" or store.unfinished_uploads(bucket) == ["file"]
                store.read_only.add(bucket)
            file.write(PIECE)
    store.read_only.clear()
    del file
    assert store.names(bucket) == []


@pytest.mark.parametrize("size", [0, 1, NUM_PIECES << 20])
def test_a_file_appears_whole(size, store, bucket):
    data = (PIECE * NUM_PIECES)[:size]
    files.write(f"{store.scheme}://{bucket}/folder/file", data)
    assert store.names(bucket) == ["folder/file"]
    assert store.read(f"{store.scheme}://{bucket}/folder/file") == data
    assert files.read(f"{store.scheme}://{bucket}/folder/file") == data
