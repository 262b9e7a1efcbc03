"""The inputs, made from a folder of real data by stated rules, and their specs.

The folder holds `adult/adult-train.csv` (no header), `photos/<id>_<class>.JPEG` and
`cifar10/train/<class>/*.jpg`.

- A table of N rows is adult's rows in their order, over and over. With `has_unique`, each row ends
  in two more values that no other row has: 16 hexadecimal digits that are a hash of the row's
  number, and a float.
- A folder of N images is the images in the order of their names, over and over:
  `<class>/<name>-<copy>.<suffix>`. Copies after the first are hard links, so the files are real
  but stay in the page cache. Their spec has no filter: both sides write every file.
- A folder of N JPEG files of one size is made of the photos in the same way, after they were
  resized, aspect ratio or not, and written with quality 90.
- A table of numbers has columns of standard normal numbers with 6 digits, from a seed.
- A table of clicks has the columns of Criteo's Kaggle data, from a seed: a label, 1 in a quarter of
  the rows; 13 counts, log-normal with a sigma of 1.5 and the medians of `CLICK_NUMBERS`, rounded
  down, one of them less 3; 26 texts of 8 hexadecimal digits, of as many as `CLICK_TEXTS` says, the
  k-th as often as Zipf's law says. Both say which share of a column is missing.
- Reviews are texts of IMDB's number and lengths (a gamma distribution, 231 words in the mean) and a
  label, from a seed: the k-th of 100,000 words as often as Zipf's law says, some with punctuation,
  and `<br />` between some.
- A table of words has one text a row, each of V texts as often as the others, and a label.

An input that is in the work folder already is used again.
"""

import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import os
import random
import shutil
import string
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from PIL import Image

COLUMNS = (
    "age workclass fnlwgt education education_num marital_status occupation relationship race sex "
    "capital_gain capital_loss hours_per_week native_country income"
).split()
_LINKS_IN_A_FOLDER = 1_000
UNIQUE_COLUMNS = ["row_hash", "amount"]
CLICK_COLUMNS = ["label", *(f"i{k}" for k in range(13)), *(f"c{k}" for k in range(26))]
CLICK_NUMBERS = (  # Of each column the least, the median and the share that is missing.
    *((0, 1.5, 0.45), (-3, 6, 0), (0, 6, 0.21), (0, 4, 0.22), (0, 2_800, 0.03), (0, 30, 0.22)),
    *((0, 3, 0.04), (0, 7, 0), (0, 38, 0.04), (0, 1, 0.45), (0, 1.2, 0.04), (0, 0.5, 0.77)),
    (0, 4, 0.22),
)
CLICK_TEXTS = (  # Of each column how many texts there are, and the share that is missing.
    *((1_460, 0), (583, 0), (10_131_227, 0.03), (2_202_608, 0.03), (305, 0), (24, 0.12)),
    *((12_517, 0), (633, 0), (3, 0), (93_145, 0), (5_683, 0), (8_351_593, 0.03), (3_194, 0)),
    *((27, 0), (14_992, 0), (5_461_306, 0.03), (10, 0), (5_652, 0), (2_173, 0.44), (4, 0.44)),
    *((7_046_547, 0.03), (18, 0.76), (15, 0), (286_181, 0.03), (105, 0.44), (142_572, 0.44)),
)
CLICK_THRESHOLD = 10  # Rarer texts of clicks are unknown.
_CLICKS_AT_ONCE = 100_000
REVIEW_COLUMNS = ["text", "label"]
VOCABULARY_SIZE = 20_000  # Of reviews, what stands for unknown words included.

TABLE_SPEC = """\
name = "adult"

[source]
format = "csv"
paths = [$path]
header = false
columns = $columns
trim = true
null_values = ["?", ""]

[split]
key = "*"
fractions = { train = 0.8, validation = 0.1, test = 0.1 }

[[filter]]
name = "working_age"
where = "age BETWEEN 17 AND 89 AND hours_per_week > 1"

[features]
age            = { dtype = "float32", transform = "scale_to_z_score" }
age_bucket     = { column = "age", dtype = "float32", transform = "bucketize", num_buckets = 10 }
workclass      = { dtype = "string", transform = "compute_and_apply_vocabulary", missing = "token" }
education      = { dtype = "string", transform = "compute_and_apply_vocabulary" }
education_num  = { dtype = "float32", transform = "scale_to_0_1" }
marital_status = { dtype = "string", transform = "compute_and_apply_vocabulary" }
relationship   = { dtype = "string", transform = "compute_and_apply_vocabulary" }
race           = { dtype = "string", transform = "compute_and_apply_vocabulary" }
sex            = { dtype = "string", transform = "compute_and_apply_vocabulary" }
capital_gain   = { dtype = "float32", transform = ["log1p", "scale_to_z_score"] }
capital_loss   = { dtype = "float32", transform = "center" }
hours_per_week = { dtype = "float32", transform = "scale_to_z_score" }
$unique
[features.occupation]
dtype = "string"
transform = "compute_and_apply_vocabulary"
missing = "token"
top_k = 12
num_oov_buckets = 1

[features.native_country]
dtype = "string"
transform = "hash_strings"
hash_buckets = 64
missing = "token"

[label]
column = "income"
type = "class"

[output]
num_shards = 4
compression = "gzip"
"""

UNIQUE_FEATURES = """\
row_hash       = { dtype = "string", transform = "hash_strings", hash_buckets = 1024 }
amount         = { dtype = "float32", transform = "scale_to_z_score" }
amount_bucket  = { column = "amount", dtype = "float32", transform = "bucketize", num_buckets = 10 }
"""

IMAGES_SPEC = """\
name = "images"

[source]
format = "images"
paths = [$path]

[split]
fractions = { train = 0.8, validation = 0.1, test = 0.1 }

[features.image]
size = [$size, $size]
channels = 3
method = "bilinear"
antialias = true
crop = "none"
rescale = 0.00392156862745098
featurewise_center = true
featurewise_std_normalization = true
store = "$store"

[label]
from = "directory"
type = "class"

[output]
num_shards = 4
compression = "none"
"""

ENCODED_SPEC = """\
name = "images"

[source]
format = "images"
paths = [$path]

[split]
fractions = { train = 0.8, validation = 0.1, test = 0.1 }

[features.image]
size = [$size, $size]
antialias = false
store = "jpeg"
quality = 95

[label]
from = "directory"
type = "class"

[output]
num_shards = 4
compression = "none"
"""

MADE_SPEC = """\
name = "made"

[source]
format = "csv"
paths = [$path]

[split]
fractions = { train = 0.8, validation = 0.1, test = 0.1 }

[features]
$features
[output]
num_shards = 4
compression = "none"
"""


@dataclasses.dataclass(frozen=True)
class Input:
    """A file or folder, and the number of records in it."""

    path: Path
    num_records: int


def adult_rows(data: Path) -> list[bytes]:
    """Returns adult's rows, without line ends and blank lines."""
    lines = (data / "adult" / "adult-train.csv").read_bytes().splitlines()
    return [line for line in lines if line.strip()]


def table(data: Path, work: Path, num_rows: int, *, has_unique: bool = False) -> Input:
    """Makes a CSV file of adult's rows, repeated."""

    def write(path: Path) -> None:
        rows: Iterator[bytes] = itertools.cycle(adult_rows(data))
        if has_unique:
            rows = map(_with_unique, rows, itertools.count())
        with open(path, "wb") as file:
            file.writelines(row + b"\n" for row in itertools.islice(rows, num_rows))

    name = f"adult-{num_rows}{'-unique' if has_unique else ''}.csv"
    return Input(_once(work / name, write), num_rows)


def _with_unique(row: bytes, index: int) -> bytes:
    text = hashlib.blake2b(b"%d" % index, digest_size=8).hexdigest()
    # An odd multiplier permutes the 32-bit numbers, so no two rows have the same amount.
    amount = (index * 2654435761 % 2**32) / 4096
    return row + f", {text}, {amount!r}".encode()


def table_spec(source: Input, *, has_unique: bool = False) -> Path:
    """Writes the spec of a table beside it."""
    names = COLUMNS + (UNIQUE_COLUMNS if has_unique else [])
    unique = UNIQUE_FEATURES if has_unique else ""
    return write_spec(TABLE_SPEC, source, ".toml", columns=json.dumps(names), unique=unique)


def numbers(work: Path, num_rows: int, num_columns: int) -> Input:
    """Makes a CSV file of random numbers, from a seed."""

    def write(path: Path) -> None:
        values = np.random.default_rng(0).standard_normal((num_rows, num_columns))
        names = ",".join(f"x{index}" for index in range(num_columns))
        np.savetxt(path, values, "%.6f", ",", header=names, comments="")

    return Input(_once(work / f"numbers-{num_rows}x{num_columns}.csv", write), num_rows)


def numbers_spec(source: Input, num_columns: int) -> Path:
    """Writes the spec of a table of numbers beside it."""
    line = 'x{} = {{ dtype = "float32", transform = "scale_to_z_score" }}\n'
    features = "".join(line.format(index) for index in range(num_columns))
    return write_spec(MADE_SPEC, source, ".toml", features=features)


def clicks(work: Path, num_rows: int) -> Input:
    """Makes a CSV file of Criteo's form; a smaller one is the beginning of a larger one."""

    def write(path: Path) -> None:
        rng = np.random.default_rng(0)
        options = pyarrow.csv.WriteOptions(quoting_style="none")
        with open(path, "wb") as file:
            file.write(",".join(CLICK_COLUMNS).encode() + b"\n")
            options.include_header = False
            for start in range(0, num_rows, _CLICKS_AT_ONCE):
                batch = _clicks(rng).slice(0, num_rows - start)
                pyarrow.csv.write_csv(batch, file, options)

    return Input(_once(work / f"clicks-{num_rows}.csv", write), num_rows)


def _clicks(rng: np.random.Generator) -> pa.RecordBatch:
    """Draws the next rows of a table of clicks."""
    n = _CLICKS_AT_ONCE
    columns = [pa.array((rng.random(n) < 0.25).astype(np.int64))]
    for least, median, missing in CLICK_NUMBERS:
        counts = np.exp(np.log(median) + 1.5 * rng.standard_normal(n)).astype(np.int64) + least
        columns.append(pa.array(counts, mask=rng.random(n) < missing))
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * 8).buffers()[1]
    for column, (size, missing) in enumerate(CLICK_TEXTS):
        # The k-th has log((k + 1) / k) / log(size + 1) of all, about 1 / k of the first one's.
        ranks = ((size + 1) ** rng.random(n)).astype(np.int64)
        # An odd multiplier permutes the 32-bit numbers, so no two ranks have the same text.
        numbers = (ranks * 2654435761 + column).astype(">u4")
        texts = pa.py_buffer(numbers.tobytes().hex().encode())
        is_there = pa.array(rng.random(n) >= missing)
        column_of = pa.StringArray.from_buffers(n, offsets, texts)
        columns.append(pc.if_else(is_there, column_of, None))
    return pa.record_batch(columns, CLICK_COLUMNS)


def clicks_spec(source: Input, *, has_vocabularies: bool = False) -> Path:
    """Writes the spec of a table of clicks beside it; texts are hashed unless looked up."""
    number = (
        '{} = {{ dtype = "float32", missing = 0, clip_min = 0, '
        'transform = ["clip", "log1p", "scale_to_z_score"] }}\n'
    )
    text = '{} = {{ dtype = "string", missing = "token", transform = '
    if has_vocabularies:
        text += f'"compute_and_apply_vocabulary", frequency_threshold = {CLICK_THRESHOLD} }}}}\n'
    else:
        text += '"hash_strings", hash_buckets = 1000000 }}\n'
    lines = [number.format(name) for name in CLICK_COLUMNS[1:14]]
    lines += [text.format(name) for name in CLICK_COLUMNS[14:]]
    label = '[label]\ncolumn = "label"\ntype = "class"\n\n'
    suffix = "-vocabularies.toml" if has_vocabularies else ".toml"
    return write_spec(MADE_SPEC, source, suffix, features="".join(lines) + label)


def words(work: Path, num_rows: int, num_words: int) -> Input:
    """Makes a CSV file with a column of texts: each of `num_words` as often as the others."""

    def write(path: Path) -> None:
        rows = (f"{index},word {index * 7919 % num_words}\n" for index in range(num_rows))
        with open(path, "w") as file:
            file.write("row,word\n")
            file.writelines(rows)

    return Input(_once(work / f"words-{num_rows}x{num_words}.csv", write), num_rows)


def words_spec(source: Input) -> Path:
    """Writes the spec of a table of words beside it."""
    features = 'word = { dtype = "string", transform = "compute_and_apply_vocabulary" }\n'
    return write_spec(MADE_SPEC, source, ".toml", features=features)


def reviews(work: Path, num_rows: int) -> Input:
    """Makes a CSV file of texts with a label."""

    def write(path: Path) -> None:
        rng = np.random.default_rng(0)
        size = 100_000
        numbers = [str(k * 2654435761 % 2**32) for k in range(size)]
        letters = str.maketrans("0123456789", "etaoinshrd")
        known = np.array([n.translate(letters)[: 2 + k % 9] for k, n in enumerate(numbers)], object)
        lengths = 10 + rng.gamma(2.2, 100, num_rows).astype(np.int64)
        with open(path, "w") as file:
            file.write(",".join(REVIEW_COLUMNS) + "\n")
            for index, length in enumerate(lengths.tolist()):
                text = known[(size ** rng.random(length)).astype(np.int64) - 1]
                text[4::9] += ","
                text[12::18] += "."
                text[50::60] = "<br /><br />"
                file.write(f'"{" ".join(text)}",{("neg", "pos")[index % 2]}\n')

    return Input(_once(work / f"reviews-{num_rows}.csv", write), num_rows)


def reviews_spec(source: Input, mode: str) -> Path:
    """Writes the spec of reviews beside them; `mode` is the output_mode."""
    length = "output_sequence_length = 250\n" if mode == "int" else ""
    features = (
        f'[features.text]\ntype = "text"\nreplace = [["<br />", " "]]\nmax_tokens = '
        f'{VOCABULARY_SIZE}\noutput_mode = "{mode}"\n{length}\n'
        '[label]\ncolumn = "label"\ntype = "class"\n'
    )
    template = MADE_SPEC.replace("[features]\n", "")
    return write_spec(template, source, f"-{mode}.toml", features=features)


def photos(data: Path, work: Path, num_images: int) -> Input:
    """Makes class folders of photos, repeated: every photo of the data is a class of its own."""
    paths = sorted((data / "photos").glob("*.JPEG"))
    classes = [path.stem.partition("_")[2] for path in paths]
    return _images(paths, classes, work / f"photos-{num_images}", num_images)


def jpegs(data: Path, work: Path, num_images: int, size: int) -> Input:
    """Makes the same of photos that were resized before; `size` is the side in pixels."""

    def write(folder: Path) -> None:
        folder.mkdir()
        for path in sorted((data / "photos").glob("*.JPEG")):
            with Image.open(path) as image:
                square = image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
            square.save(folder / f"{path.stem}.jpg", quality=90)

    paths = sorted(_once(work / f"jpegs-{size}", write).glob("*.jpg"))
    classes = [path.stem.partition("_")[2] for path in paths]
    return _images(paths, classes, work / f"jpegs-{size}-{num_images}", num_images)


def cifar(data: Path, work: Path, copies: int) -> Input:
    """Makes class folders of CIFAR's training files, repeated."""
    paths = sorted((data / "cifar10" / "train").glob("*/*.jpg"))
    classes = [path.parent.name for path in paths]
    return _images(paths, classes, work / f"cifar10-x{copies}", copies * len(paths))


def _images(paths: Sequence[Path], classes: Sequence[str], folder: Path, num_images: int) -> Input:
    def write(target: Path) -> None:
        for index in range(num_images):
            copy, source = divmod(index, len(paths))
            path, home = paths[source], target / classes[source]
            first = home / f"{path.stem}-000{path.suffix}"
            if copy == 0:
                home.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, first)
            else:
                os.link(first, home / f"{path.stem}-{copy:03d}{path.suffix}")

    return Input(_once(folder, write), num_images)


def links(work: Path, num_files: int) -> Input:
    """Makes folders of 1,000 files, which are links to a few: an inode takes 65,000 of them."""

    def write(target: Path) -> None:
        target.mkdir()
        folders = range(-(-num_files // _LINKS_IN_A_FOLDER))
        with concurrent.futures.ProcessPoolExecutor() as processes:
            counts = [min(_LINKS_IN_A_FOLDER, num_files - _LINKS_IN_A_FOLDER * f) for f in folders]
            targets = itertools.repeat(target)
            for _ in processes.map(_write_links, targets, folders, counts, chunksize=60):
                pass

    return Input(_once(work / f"links-{num_files}", write), num_files)


def _write_links(target: Path, folder: int, count: int) -> None:
    """Writes the first file of each 60th folder, and links to the rest.

    Folders of one inode are worked on by one process, in order: `chunksize` sees to it.
    """
    first = target / f"n{folder - folder % 60:08d}" / "00000.JPEG"
    home = target / f"n{folder:08d}"
    home.mkdir()
    for index in range(count):
        path = home / f"{index:05d}.JPEG"
        if path == first:
            path.write_bytes(bytes(folder % 1_000))
        else:
            os.link(first, path)


def images_spec(source: Input, size: int, store: str) -> Path:
    """Writes the spec of a folder of images beside it; `size` is the side in pixels."""
    return write_spec(IMAGES_SPEC, source, f"-{size}-{store}.toml", size=size, store=store)


def encoded_spec(source: Input, size: int) -> Path:
    """Writes the spec of images that stay JPEG files beside them; `size` is the side in pixels."""
    return write_spec(ENCODED_SPEC, source, f"-{size}-jpeg.toml", size=size)


def write_spec(template: str, source: Input, suffix: str, **values: object) -> Path:
    """Writes a spec beside its input, `$path` and the values filled in."""
    path = source.path.with_name(source.path.stem + suffix)
    text = string.Template(template).substitute(path=json.dumps(str(source.path)), **values)
    path.write_text(text)
    return path


def _once(path: Path, write: Callable[[Path], None]) -> Path:
    """Writes a file or folder unless it is there, all or nothing."""
    if not path.exists():
        partial = path.with_name(f"{path.name}.partial")
        if partial.is_dir():
            shutil.rmtree(partial)
        write(partial)
        partial.rename(path)
    return path


def made(work: Path) -> Path:
    """Makes a tiny folder of data of the same form, from a seed."""
    return _once(work / "data", _write_made)


def _write_made(folder: Path) -> None:
    numbers = random.Random(0)
    (folder / "adult").mkdir(parents=True)
    rows = [", ".join(_made_row(numbers)) for _ in range(200)]
    (folder / "adult" / "adult-train.csv").write_text("\n".join(rows) + "\n\n")
    for index in range(8):
        size = (60 + 7 * index, 90 - 5 * index)
        _write_image(folder / "photos" / f"n{index:08d}_thing_{index}.JPEG", size, index)
        path = folder / "cifar10" / "train" / f"class_{index % 2}" / f"{index:04d}.jpg"
        _write_image(path, (32, 32), index)


def _made_row(numbers: random.Random) -> Iterator[str]:
    for name in COLUMNS:
        if name in ("age", "hours_per_week"):
            yield str(numbers.randint(1, 99))
        elif name.startswith(("capital", "fnlwgt", "education_num")):
            yield str(numbers.randint(0, 9999))
        else:
            yield numbers.choice([f"{name}-a", f"{name}-b", f"{name}-c"])


def _write_image(path: Path, size: tuple[int, int], seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")
