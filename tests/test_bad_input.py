"""Bad input: each with the exact line that the user sees, or the reason under which it is kept."""

import gzip
import io
import json
import re
import shutil
import struct
import tracemalloc
import zlib

import google_crc32c
import numpy as np
import pytest
from oracle.command import headrace
from PIL import Image

from beam_jobs import rows
from beam_jobs.config import load_spec
from beam_jobs.errors import DataError, SpecError
from beam_jobs.image_headers import TooLargeImage, read_header
from beam_jobs.run import run
from beam_jobs.verify import verify
from trainer.errors import DatasetError
from trainer.input_pipeline import load

SPEC = """\
name = "table"

[source]
format = "csv"
paths = ["{path}"]

[split]
fractions = {{ train = 0.7, test = 0.3 }}

[[filter]]
name = "small"
where = "x < 1000 AND x <> -7"

[features]
x = {{ dtype = "float32", transform = "scale_to_z_score" }}
n = {{ dtype = "int64" }}
l = {{ column = "x", dtype = "float32", transform = "log1p" }}

[label]
column = "y"

[output]
num_shards = 2
max_rejected = {max_rejected}
"""
HEAD = b"x,n,y\n"
# Line, reason and the bytes that stand there; sound rows stand before, between and behind them.
BROKEN_ROWS = [
    ("ragged_row", b"1,2"),
    ("ragged_row", b"1,2,a,b"),
    ("unparsable_x", b"one,2,a"),
    ("unparsable_n", b"1,2.5,a"),
    ("non_finite_x", b"1e999,2,a"),
    ("non_finite_x", b"inf,2,a"),
    ("non_finite_n", b"1,9223372036854775808,a"),
    ("nul_byte", b"1,2,a\0"),
    ("bad_encoding", "1,2,\xe9".encode("latin-1")),
    ("small", b"1000,2,a"),
    ("small", b"-7,2,a"),
    ("non_finite_x", b"-1,2,a"),
    ("null_in_small", b",2,a"),
    ("null_in_small", b"nan,2,a"),
    ("no_label", b"1,2,"),
    ("missing_n", b"1,,a"),
]


def sound(number: int) -> bytes:
    return b"%d.5,%d,%s" % (number, number, b"ab"[number % 2 : number % 2 + 1])


def write_spec(folder, text=SPEC, path="table.csv", max_rejected=0.5):
    spec = folder / "table.toml"
    spec.write_text(text.format(path=path, max_rejected=max_rejected))
    return spec


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A dataset of a table in which each broken row stands on a line of its own."""
    folder = tmp_path_factory.mktemp("table")
    lines = [sound(n) for n in range(40)]
    for position, (_, row) in enumerate(BROKEN_ROWS):
        lines.insert(3 + 2 * position, row)
    (folder / "table.csv").write_bytes(HEAD + b"\n".join(lines) + b"\n")
    run(load_spec(str(write_spec(folder))), str(folder / "out"), block_mb=0.0001)
    return folder


def set_aside(out):
    lines = [line for file in sorted(out.glob("rejected/*")) for line in file.open()]
    return [json.loads(line) for line in lines]


def test_each_broken_row_is_set_aside_with_its_line_and_reason(table):
    expected = [(5 + 2 * i, reason) for i, (reason, _) in enumerate(BROKEN_ROWS)]
    found = set_aside(table / "out")
    assert [(entry["position"], entry["reason"]) for entry in found] == expected
    raw = [row.decode(errors="backslashreplace") for _, row in BROKEN_ROWS]
    assert [entry["record"] for entry in found] == raw
    assert {entry["source"] for entry in found} == {str(table / "table.csv")}
    assert len({path.name for path in table.glob("out/rejected/*")}) > 1  # More than one block.


def test_the_details_say_what_came(table):
    details = {entry["reason"]: entry["detail"] for entry in set_aside(table / "out")}
    assert details["ragged_row"] == "4 fields, but there are 3 columns"
    assert details["bad_encoding"] == "byte 0xe9 at 4 is not utf-8"


def test_read_is_written_and_rejected(table):
    info = json.loads((table / "out" / "dataset_info.json").read_text())
    assert info["read"] == 40 + len(BROKEN_ROWS)
    assert sum(entry["num_examples"] for entry in info["splits"].values()) == 40
    assert info["rejected"] == {
        "bad_encoding": 1,
        "missing_n": 1,
        "no_label": 1,
        "non_finite_n": 1,
        "non_finite_x": 3,
        "nul_byte": 1,
        "null_in_small": 2,
        "ragged_row": 2,
        "small": 2,
        "unparsable_n": 1,
        "unparsable_x": 1,
    }


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_broken_images_are_set_aside(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    whole = encoded(Image.fromarray(pixels), "JPEG")
    broken = {
        "cut.jpg": (whole[: len(whole) // 2], "undecodable_image"),
        "empty.png": (b"", "undecodable_image"),
        "text.jpg": (b"This is no image.\n", "undecodable_image"),
        "huge.png": (png_header(60_000, 60_000), "too_large_image"),
    }
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(6):
            (tmp_path / "images" / name / f"{number}.jpg").write_bytes(whole)
    for name, (data, _) in broken.items():
        (tmp_path / "images" / "cat" / name).write_bytes(data)
    (tmp_path / "images" / "cat" / ".hidden.jpg").write_bytes(b"dot-files do not count")
    spec = tmp_path / "images.toml"
    spec.write_text(
        'name = "images"\n[source]\nformat = "images"\npaths = ["images"]\n'
        "[split]\nfractions = { train = 0.7, test = 0.3 }\n"
        '[features.image]\nsize = [8, 8]\n[label]\nfrom = "directory"\n[output]\nnum_shards = 1\n'
    )
    info = run(load_spec(str(spec)), str(tmp_path / "out"))
    assert info["read"] == 16
    assert sum(entry["num_examples"] for entry in info["splits"].values()) == 12
    assert info["rejected"] == {"too_large_image": 1, "undecodable_image": 3}
    found = {entry["source"]: entry["reason"] for entry in set_aside(tmp_path / "out")}
    folder = tmp_path / "images" / "cat"
    assert found == {str(folder / name): reason for name, (_, reason) in broken.items()}


def test_a_huge_image_is_refused_before_it_is_decoded():
    tracemalloc.start()
    with pytest.raises(TooLargeImage, match="60000 x 60000|60,000 x 60,000"):
        read_header(png_header(60_000, 60_000))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


CONDITION = 'where = "x < 1000 AND x <> -7"'
SPEC_MISTAKES = {
    "unknown key": (
        'transform = "scale_to_z_score"',
        'transfrom = "scale_to_z_score"',
        "{spec}: features.x.transfrom: unknown key; did you mean 'transform'?",
    ),
    "unknown transform": (
        '"scale_to_z_score"',
        '"z_score"',
        "{spec}: features.x.transform: must be 'log', 'log1p', 'sqrt', 'clip', 'center', "
        "'scale_to_z_score', 'scale_to_0_1', 'scale_by_min_max', 'scale_to_gaussian', "
        "'robust_scale', 'yeo_johnson', 'box_cox', 'bucketize', 'apply_buckets', "
        "'apply_buckets_with_interpolation', 'scale_to_z_score_per_key', 'scale_to_0_1_per_key', "
        "'scale_by_min_max_per_key', 'bucketize_per_key', 'compute_and_apply_vocabulary' or "
        "'hash_strings', but is 'z_score'.",
    ),
    "fractions": (
        "test = 0.3",
        "test = 0.2",
        "{spec}: split: fractions must sum to 1, but sum to 0.9.",
    ),
    "no such column": (
        "n = {{ dtype",
        "m = {{ dtype",
        "features.m: there is no column 'm'. The columns are x, n, y.",
    ),
    "no SQL": (
        CONDITION,
        'where = "x <"',
        "filter 'small': not SQL: syntax error at or near \")\". Mend 'x <'.",
    ),
    "SQL over many records": (
        CONDITION,
        'where = "x < avg(x)"',
        "filter 'small': avg() looks at many records. A condition speaks of one.",
    ),
    "SQL that changes": (
        CONDITION,
        'where = "x < random()"',
        "filter 'small': random() gives another answer each time. Remove it.",
    ),
    "a subquery": (
        CONDITION,
        'where = "x < (SELECT 1)"',
        "filter 'small': a subquery is not allowed: a condition speaks of one record. Remove it.",
    ),
}


@pytest.mark.parametrize("name", SPEC_MISTAKES)
def test_a_mistake_in_the_spec_is_one_line(name, tmp_path):
    before, after, message = SPEC_MISTAKES[name]
    assert before in SPEC
    (tmp_path / "table.csv").write_bytes(HEAD + sound(1))
    path = write_spec(tmp_path, SPEC.replace(before, after))
    with pytest.raises(SpecError) as error:
        rows.plan(load_spec(str(path)), ("x", "n", "y"))
    assert str(error.value) == message.format(spec=path)


def test_a_mistake_ends_the_command_with_one_line_and_status_2(tmp_path):
    path = write_spec(tmp_path, SPEC.replace("[[filter]]", "[[fliter]]"))
    done = headrace("run", path, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert done.stdout == f"headrace: {path}: fliter: unknown key; did you mean 'filter'?\n"


def test_a_path_that_matches_nothing(tmp_path):
    spec = load_spec(str(write_spec(tmp_path, path="no*.csv")))
    with pytest.raises(SpecError) as error:
        run(spec, str(tmp_path / "out"))
    where = f"source.paths: '{tmp_path}/no*.csv'"
    assert str(error.value) == f"{where} matches no file. Correct the path."


def failure(folder, data, *, max_rejected=0.5, name="table.csv", others=()):
    """The line that the command prints for a table of these bytes, without its first word."""
    (folder / name).write_bytes(data)
    for other, more in others:
        (folder / other).write_bytes(more)
    path = write_spec(folder, path="table*", max_rejected=max_rejected)
    (folder / "specs").mkdir()
    moved = folder / "specs" / "table.toml"
    moved.write_text(path.read_text().replace("table*", "../table*.csv*"))
    with pytest.raises(DataError) as error:
        run(load_spec(str(moved)), str(folder / "out"))
    assert not (folder / "out" / "dataset_info.json").exists()
    return re.sub(r" \[while running .*", "", str(error.value))


def test_an_unterminated_quote_stops_the_job_with_its_line(tmp_path):
    data = HEAD + b'1,2,"a\nb"\n3,4,"c\n5,6,d\n'
    assert failure(tmp_path, data) == (
        f"{tmp_path}/table.csv:4: the quote that opens here is never closed, so the rest of the "
        "file cannot be read. Close it, or set source.quote."
    )


def test_files_with_another_set_of_columns_stop_the_job(tmp_path):
    others = [("table2.csv", b"x,m,y\n1,2,a\n")]
    assert failure(tmp_path, HEAD + sound(1), others=others) == (
        f"{tmp_path}/table2.csv: the columns are ['m', 'x', 'y'], but those of "
        f"{tmp_path}/table.csv are ['n', 'x', 'y']. Give files with one set of columns."
    )


def test_a_cut_gzip_file_stops_the_job(tmp_path):
    data = gzip.compress(HEAD + b"\n".join(map(sound, range(1000))), mtime=0)
    assert failure(tmp_path, data[:-100], name="table.csv.gz") == (
        f"{tmp_path}/table.csv.gz: cannot be read: Truncated compressed stream. "
        "Mend or remove the file."
    )


def test_too_many_unreadable_records_stop_the_job_with_a_table(tmp_path):
    lines = [sound(n) for n in range(89)] + [b"one,2,a"] * 8 + [b"1,2"] * 3
    assert failure(tmp_path, HEAD + b"\n".join(lines), max_rejected=0.1) == (
        "11 of 100 records cannot be read, more than [output] max_rejected = 0.1 allows. Mend the "
        f"input, or raise it; the records are in {tmp_path}/out/rejected.\n"
        "  unparsable_x         8\n"
        "  ragged_row           3"
    )


def test_an_empty_train_stops_the_job(tmp_path):
    assert failure(tmp_path, HEAD + b"1000,1,a\n2000,2,b\n") == (
        "no record is left in train: 2 were read, and 2 rejected (small 2). "
        "Loosen the filters, or change the split."
    )


def test_an_output_that_holds_something_else_is_left_alone(table):
    before = {path: path.stat().st_mtime_ns for path in (table / "out").rglob("*")}
    other = table / "other.toml"
    other.write_text((table / "table.toml").read_text().replace("x < 1000", "x < 30"))
    with pytest.raises(SpecError) as error:
        run(load_spec(str(other)), str(table / "out"))
    assert str(error.value) == (
        f"{table}/out: holds the dataset 'table', made of another spec. Give another folder, or "
        "--overwrite to replace it."
    )
    assert {path: path.stat().st_mtime_ns for path in (table / "out").rglob("*")} == before
    with pytest.raises(SpecError) as error:
        run(load_spec(str(other)), str(table))
    assert str(error.value) == (
        f"{table}: holds files that are no dataset, such as 'other.toml'. Give an empty folder."
    )


@pytest.fixture
def damaged(table, tmp_path):
    """A copy of the dataset, and its first shard of train, to be damaged."""
    shutil.copytree(table / "out", tmp_path / "copy")
    return tmp_path / "copy", tmp_path / "copy" / "train-00000-of-00002.tfrecord"


def shard_entry(folder):
    info = json.loads((folder / "dataset_info.json").read_text())
    return info["splits"]["train"]["shards"][0]


def test_a_flipped_byte_is_named(damaged):
    folder, shard = damaged
    data = bytearray(shard.read_bytes())
    data[20] ^= 1
    shard.write_bytes(data)
    problems = verify(str(folder))
    found, listed = f"{google_crc32c.value(bytes(data)):08x}", shard_entry(folder)["crc32c"]
    assert found != listed
    size = struct.unpack("<Q", data[:8])[0]
    masked = struct.unpack("<I", data[12 + size : 16 + size])[0]
    rotated = (masked - 0xA282EAD8) % 2**32  # How TFRecord masks a checksum.
    footer = f"{(rotated >> 17 | rotated << 15) % 2**32:08x}"
    now = f"{google_crc32c.value(bytes(data[12 : 12 + size])):08x}"
    assert problems == [
        f"{shard.name}: crc32c is {found}, but dataset_info.json says {listed}: the file is "
        f"damaged (record 0 at byte 0: crc32c of its data is {now}, but its footer says {footer}). "
        "Run `headrace run` with --overwrite."
    ]


def test_a_shard_cut_at_a_record_boundary_is_named(damaged):
    folder, shard = damaged
    whole = shard.stat().st_size
    last = cut = 0
    while cut < whole:
        last = cut
        cut += 16 + struct.unpack("<Q", shard.read_bytes()[cut : cut + 8])[0]
    shard.write_bytes(shard.read_bytes()[:last])
    assert 0 < last < whole
    assert verify(str(folder)) == [
        f"{shard.name} has {last} bytes, but dataset_info.json says {whole}: the file is cut or "
        "was replaced. Run `headrace run` with --overwrite."
    ]
    with pytest.raises(DatasetError, match=shard.name):
        list(load(str(folder), "train", 4))


def test_verify_ends_with_status_1_where_something_is_wrong(damaged):
    folder, shard = damaged
    shard.unlink()
    done = headrace("verify", folder)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{shard.name}: is listed in dataset_info.json, but is missing. "
        "Run `headrace run` with --overwrite.",
        f"{folder}: 1 problem",
    ]
