"""Images that a table names: several in a record, with masks and boxes, end to end."""

import csv
import dataclasses
import io
import json
import os
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from oracle import compare, records
from oracle.command import headrace
from oracle.made_images import picture
from PIL import Image
from test_planning import CLUSTER
from test_resume import run_until_it_fails

from beam_jobs.config import load_spec
from beam_jobs.errors import DataError, SpecError
from beam_jobs.run import run
from trainer import input_pipeline

ORIENTATION = 0x0112  # The EXIF tag.
SPEC = """\
name = "street"
[source]
format = "@FORMAT@"
paths = ["@TABLE@"]
types = { number = "int64" }
[split]
fractions = { train = 0.7, test = 0.3 }
@MORE@
[features.photo]
type = "image"
size = [24, 16]
@PHOTO@
[features.classes]
type = "mask"
of = "photo"
column = "mask"
[features.objects]
type = "boxes"
of = "photo"
max_boxes = 4
classes = true
[label]
column = "number"
type = "int64"
[output]
num_shards = 2
max_rejected = 1
"""


@dataclasses.dataclass
class Row:
    """A record: pixels as they are seen, before any crop."""

    number: int
    pixels: np.ndarray
    mask: np.ndarray
    boxes: list[list[float]]
    orientation: int

    @property
    def photo(self) -> bytes:
        """The file, whose pixels lie as the orientation says."""
        turned = {1: self.pixels, 3: np.rot90(self.pixels, 2), 6: np.rot90(self.pixels)}
        exif = Image.Exif()
        exif[ORIENTATION] = self.orientation
        return encoded(Image.fromarray(np.ascontiguousarray(turned[self.orientation])), exif=exif)

    @property
    def mask_file(self) -> bytes:
        """A PNG with a palette, or grey."""
        if self.number % 3:
            return encoded(Image.fromarray(self.mask))
        image = Image.fromarray(self.mask, "P")
        image.putpalette(np.random.default_rng(7).integers(0, 256, 768, np.uint8).tobytes())
        return encoded(image)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rows(count: int = 36) -> list[Row]:
    rng = np.random.default_rng(11)
    found = []
    for number in range(count):
        height, width = (24, 16) if number % 2 else rng.integers(20, 70, 2).tolist()
        boxes = [[2, 3, width - 4, height - 5, number % 3], [0, 0, 7.5, 6.25, 1]][: number % 3]
        pixels = np.asarray(picture(rng, width, height))
        mask = rng.integers(0, 21, (height, width)).astype(np.uint8)
        found.append(Row(number, pixels, mask, boxes, (1, 6, 3)[number % 3]))
    return found


ROWS = rows()
COLUMNS = ("photo", "mask", "objects", "number")


def write_csv(folder: Path, cells=(), name="table.csv") -> Path:
    """Writes the rows as files and a table of their paths; `cells` replaces some."""
    (folder / "pictures").mkdir(parents=True)
    table = []
    for row in ROWS:
        paths = f"pictures/{row.number}.png", f"pictures/{row.number}-mask.png"
        (folder / paths[0]).write_bytes(row.photo)
        (folder / paths[1]).write_bytes(row.mask_file)
        table.append([*paths, json.dumps(row.boxes), row.number])
    for number, column, value in cells:
        table[number][COLUMNS.index(column)] = value
    with open(folder / name, "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *table])
    return folder / name


def write_parquet(folder: Path) -> Path:
    """Writes the rows with their files in the table."""
    folder.mkdir(parents=True, exist_ok=True)
    table = {
        "photo": pa.array([row.photo for row in ROWS], pa.binary()),
        "mask": pa.array([row.mask_file for row in ROWS], pa.binary()),
        "objects": [json.dumps(row.boxes) for row in ROWS],
        "number": [row.number for row in ROWS],
    }
    pq.write_table(pa.table(table), folder / "table.parquet", row_group_size=10)
    return folder / "table.parquet"


def write_tfrecord(folder: Path) -> Path:
    """Writes the rows as tf.train.Examples."""
    import tensorflow as tf

    folder.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / "table.tfrecord")) as writer:
        for row in ROWS:
            texts = [row.photo, row.mask_file, json.dumps(row.boxes).encode()]
            features = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text]))
                for name, text in zip(COLUMNS, texts, strict=False)
            }
            numbers = tf.train.Int64List(value=[row.number])
            features["number"] = tf.train.Feature(int64_list=numbers)
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    return folder / "table.tfrecord"


def write_tar(folder: Path) -> Path:
    """Writes the rows as a WebDataset."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "table.tar", "w") as tar:
        for row in ROWS:
            files = [row.photo, row.mask_file, json.dumps(row.boxes).encode()]
            files.append(str(row.number).encode())
            for name, data in zip(COLUMNS, files, strict=True):
                member = tarfile.TarInfo(f"{row.number:04d}.{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folder / "table.tar"


FORMATS = {".csv": "csv", ".parquet": "parquet", ".tfrecord": "tfrecord", ".tar": "webdataset"}


def spec_of(table: Path, photo: str = "", more: str = "", text: str = SPEC):
    """The spec of a table."""
    said = text.replace("@FORMAT@", FORMATS[table.suffix]).replace("@TABLE@", table.name)
    path = table.parent / "spec.toml"
    path.write_text(said.replace("@PHOTO@", photo).replace("@MORE@", more))
    return load_spec(str(path))


def stored(folder: Path, manifest: dict) -> dict[int, dict]:
    """Every record by its number, each feature in its shape."""
    import tensorflow as tf

    found = {}
    for file in sorted(folder.glob("*.tfrecord")):
        for data in records.frames(file.read_bytes()):
            features = tf.train.Example.FromString(data).features.feature
            record = {}
            for name, entry in manifest["features"].items():
                value = getattr(features[name], features[name].WhichOneof("kind")).value
                dtype = np.dtype(entry["dtype"])
                if entry["stored_as"] == "raw":
                    value = np.frombuffer(value[0], dtype)
                record[name] = np.array(value, dtype).reshape(entry["shape"])
            found[features["label"].int64_list.value[0]] = record
    return found


def set_aside(folder: Path) -> dict[int, str]:
    """Line of the table -> reason."""
    return {line["position"]: line["reason"] for line in compare.set_aside(folder)}


def nearest(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes (h, w) as tf.image.resize(..., "nearest") does: pixel centers."""
    rows = ((np.arange(height) + 0.5) * (values.shape[0] / height)).astype(int)
    columns = ((np.arange(width) + 0.5) * (values.shape[1] / width)).astype(int)
    return values[rows][:, columns]


def relative(boxes, left, top, width, height) -> np.ndarray:
    """Boxes in a region of the image, clipped to it, with -1 behind the last: float32 (4, 4)."""
    found = []
    for x0, y0, x1, y1, _ in boxes:
        sides = [(x0 - left) / width, (y0 - top) / height, (x1 - left) / width]
        sides = [min(max(side, 0), 1) for side in (*sides, (y1 - top) / height)]
        if sides[0] < sides[2] and sides[1] < sides[3]:
            found.append(sides)
    return np.array(found + [[-1] * 4] * (4 - len(found)), np.float32)


@pytest.fixture(scope="module")
def squeezed(tmp_path_factory):
    """The rows of a CSV file, each image squeezed into the size."""
    folder = tmp_path_factory.mktemp("squeezed")
    spec = spec_of(write_csv(folder))
    info = run(spec, str(folder / "out"))
    return folder / "out", info, stored(folder / "out", info)


def test_the_rows_hold_every_trap():
    assert {row.orientation for row in ROWS} == {1, 3, 6}
    assert {len(row.boxes) for row in ROWS} == {0, 1, 2}
    assert len({row.pixels.shape for row in ROWS}) > 10
    assert Image.open(io.BytesIO(ROWS[3].mask_file)).mode == "P"
    assert Image.open(io.BytesIO(ROWS[2].photo)).getexif()[ORIENTATION] == 3


def test_images_are_those_that_the_rows_name(squeezed):
    _, info, found = squeezed
    assert sorted(found) == list(range(len(ROWS)))
    assert info["splits"]["test"]["num_examples"] > 3
    for row in ROWS:
        photo = found[row.number]["photo"].astype(int)
        if row.pixels.shape == photo.shape:
            np.testing.assert_array_equal(photo, row.pixels)
        else:
            resized = Image.fromarray(row.pixels).resize((16, 24), Image.Resampling.BILINEAR)
            assert np.abs(photo - np.asarray(resized).astype(int)).max() <= 1, row.number


@pytest.mark.feature("tf.image.resize", "nearest", '`type = "mask"`: always')
def test_masks_keep_their_indices_and_are_resized_by_nearest(squeezed):
    import tensorflow as tf

    _, info, found = squeezed
    for row in ROWS:
        mask = found[row.number]["classes"]
        resized = tf.image.resize(row.mask[:, :, None], (24, 16), "nearest")
        np.testing.assert_array_equal(mask, resized.numpy(), str(row.number))
        np.testing.assert_array_equal(mask[:, :, 0], nearest(row.mask, 24, 16), str(row.number))
    entry = {name: info["features"]["classes"][name] for name in ("kind", "of", "dtype", "shape")}
    assert entry == {"kind": "mask", "of": "photo", "dtype": "uint8", "shape": [24, 16, 1]}


@pytest.mark.feature("ImageDataGenerator.flow_from_dataframe", "dataframe", "a table")
@pytest.mark.feature("ImageDataGenerator.flow_from_dataframe", "directory", "the table's folder")
@pytest.mark.feature("ImageDataGenerator.flow_from_dataframe", "x_col", "an image's `column`")
@pytest.mark.feature("ImageDataGenerator.flow_from_dataframe", "y_col", "`[label] column`")
@pytest.mark.feature("ImageDataGenerator.flow_from_dataframe", "target_size", "`size`")
@pytest.mark.feature("ImageDataGenerator.flow_from_dataframe", "class_mode", "`[label] type`")
def test_a_table_of_paths_is_read_as_keras_reads_a_data_frame(squeezed):
    pandas = pytest.importorskip("pandas")
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    folder, _, found = squeezed
    frame = pandas.read_csv(folder.parent / "table.csv")
    is_plain = [r.pixels.shape == (24, 16, 3) and r.orientation == 1 for r in ROWS]
    batches = ImageDataGenerator().flow_from_dataframe(
        frame[is_plain],  # Keras leaves the EXIF orientation alone, and resizes in another way.
        str(folder.parent),
        x_col="photo",
        y_col="number",
        target_size=(24, 16),
        class_mode="raw",
        shuffle=False,
        batch_size=64,
    )
    pixels, numbers = next(batches)
    assert len(numbers) == sum(is_plain) >= 3
    for number, wanted in zip(numbers.tolist(), pixels, strict=True):
        np.testing.assert_array_equal(found[number]["photo"], wanted)


@pytest.mark.feature("keras.utils.bounding_boxes", "convert_format", '`type = "boxes"`: rel_xyxy')
def test_boxes_are_those_of_keras(squeezed):
    from keras.utils import bounding_boxes

    for row in ROWS:
        if row.boxes:
            height, width = row.mask.shape
            sides = np.array(row.boxes)[:, :4]
            wanted = bounding_boxes.convert_format(sides, "xyxy", "rel_xyxy", height, width)
            found = squeezed[2][row.number]["objects"][: len(sides)]
            np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_the_counts_of_a_mask_are_those_of_train(squeezed):
    folder, info, found = squeezed
    in_train = input_pipeline.load(folder, "train", 64, input_pipeline.Options())
    numbers = np.concatenate([labels for _, labels in in_train.as_numpy_iterator()])
    pixels = np.concatenate([found[number]["classes"].ravel() for number in numbers.tolist()])
    values, counts = np.unique(pixels, return_counts=True)
    raw = info["features"]["classes"]["raw_statistics"]
    assert raw["counts"] == dict(zip(map(str, values.tolist()), counts.tolist(), strict=True))
    assert (raw["count"], raw["min"], raw["max"]) == (pixels.size, values[0], values[-1])
    boxes = info["features"]["objects"]["raw_statistics"]
    assert boxes["count"] == sum(len(ROWS[number].boxes) for number in numbers.tolist())
    assert boxes["most"] == 2


def test_boxes_are_relative_to_the_stored_image(squeezed):
    _, _, found = squeezed
    for row in ROWS:
        height, width = row.mask.shape
        places = relative(row.boxes, 0, 0, width, height)
        np.testing.assert_array_equal(found[row.number]["objects"], places, str(row.number))
        classes = [box[4] for box in row.boxes] + [-1] * (4 - len(row.boxes))
        assert found[row.number]["objects_class"].tolist() == classes
    # By hand: row 7, 24 pixels high and 16 wide, has the box 2 3 12 19.
    assert found[7]["objects"][0].tolist() == [2 / 16, 3 / 24, 12 / 16, np.float32(19 / 24)]
    assert found[7]["objects"][1:].tolist() == [[-1] * 4] * 3
    assert found[7]["objects_class"].tolist() == [1, -1, -1, -1]


def of_keras(boxes, left, top, width, height) -> np.ndarray:
    """What Keras makes of boxes where a region is cut out; those of no size are none any more."""
    from keras.utils import bounding_boxes

    cut = bounding_boxes.crop(np.array(boxes)[:, :4], top, left, height, width)
    cut = bounding_boxes.convert_format(cut, "xyxy", "rel_xyxy", height, width).numpy()
    return cut[(cut[:, 0] < cut[:, 2]) & (cut[:, 1] < cut[:, 3])]


def center(row: Row) -> tuple[int, int, int, int]:
    """The largest centered box of ratio 16 : 24."""
    height, width = row.mask.shape
    wide, tall = max(1, min(width, height * 16 // 24)), max(1, min(height, width * 24 // 16))
    return (width - wide) // 2, (height - tall) // 2, wide, tall


def padded(row: Row) -> tuple[int, int, int, int]:
    """The image in the middle of the smallest canvas of ratio 16 : 24."""
    height, width = row.mask.shape
    left, top = max(0, height * 16 // 24 - width) // 2, max(0, width * 24 // 16 - height) // 2
    return -left, -top, width + 2 * left, height + 2 * top


def exact(row: Row) -> tuple[int, int, int, int]:
    """18 x 20 pixels of the middle."""
    height, width = row.mask.shape
    return (width - 18) // 2, (height - 20) // 2, 18, 20


@pytest.mark.feature("keras.utils.bounding_boxes", "crop", "boxes follow `crop`, `crop_size`")
@pytest.mark.parametrize(
    "photo, region",
    [
        ('crop = "center"', center),
        ("pad_to_aspect_ratio = true", padded),
        ("crop_size = [20, 18]", exact),
    ],
    ids=["center", "padded", "exact"],
)
def test_masks_and_boxes_follow_their_image(photo, region, tmp_path):
    info = run(spec_of(write_csv(tmp_path), photo), str(tmp_path / "out"))
    found = stored(tmp_path / "out", info)
    small = {row.number for row in ROWS if row.mask.shape[0] < 20 or row.mask.shape[1] < 18}
    assert set(found) == set(range(len(ROWS))) - (small if region is exact else set())
    assert len(found) > 12
    num_cut = 0
    for row in ROWS:
        if row.number not in found:
            continue
        left, top, width, height = region(row)
        canvas = np.pad(row.mask, 80)[80 + top :, 80 + left :][:height, :width]
        record = found[row.number]
        np.testing.assert_array_equal(record["classes"][:, :, 0], nearest(canvas, 24, 16))
        places = relative(row.boxes, left, top, width, height)
        np.testing.assert_allclose(record["objects"], places, rtol=0, atol=6e-8)
        is_box = places[:, 0] >= 0
        if row.boxes and region is not padded:
            cut = of_keras(row.boxes, left, top, width, height)
            np.testing.assert_allclose(record["objects"][is_box], cut, rtol=1e-6)
        num_cut += bool(((places == 0) | (places == 1)).any()) or is_box.sum() < len(row.boxes)
        assert (record["objects_class"] >= 0).tolist() == is_box.tolist()
    assert num_cut > (0 if region is padded else 3)


def test_boxes_that_are_cropped_away_go_with_their_class(tmp_path):
    boxes = [[0, 0, 3, 24, 5], [10, 2, 20, 30, 7], [45, 0, 48, 24, 6]]
    table = write_csv(tmp_path)
    (tmp_path / "pictures" / "0.png").write_bytes(encoded(Image.new("RGB", (48, 24))))
    (tmp_path / "pictures" / "0-mask.png").write_bytes(encoded(Image.new("L", (48, 24))))
    said = table.read_text().splitlines()
    said[1] = f'pictures/0.png,pictures/0-mask.png,"{json.dumps(boxes[:1] + boxes[2:])}",0'
    table.write_text("\n".join(said).replace('"[[0, 0, 3', '"[[10, 2, 20, 22, 7], [0, 0, 3'))
    info = run(spec_of(table, 'crop = "center"'), str(tmp_path / "out"))
    record = stored(tmp_path / "out", info)[0]
    # 16 of 48 pixels are left, from 16 on: of 10 to 20 the part from 16 to 20.
    assert record["objects"][0].tolist() == [0, np.float32(2 / 24), 4 / 16, np.float32(22 / 24)]
    assert record["objects"][1:].tolist() == [[-1] * 4] * 3
    assert record["objects_class"].tolist() == [7, -1, -1, -1]


BAD = [
    (0, "photo", "", "missing_photo"),
    (1, "photo", "pictures/none.png", "missing_file_photo"),
    (2, "photo", "pictures", "missing_file_photo"),
    (3, "photo", "table.csv", "undecodable_image"),
    (4, "mask", "pictures/none.png", "missing_file_classes"),
    (5, "mask", "pictures/6-mask.png", "mask_size"),
    (6, "mask", "pictures/6.png", "undecodable_image"),  # Three channels.
    (8, "objects", "[[0, 0, 5, 1000, 1]]", "box_outside"),
    (9, "objects", "[[-1, 0, 5, 5, 1]]", "box_outside"),
    (10, "objects", "[[0, 0, 5, 5, 1]", "unparsable_objects"),
    (11, "objects", "[[0, 0, 5, 5]]", "unparsable_objects"),
    (12, "objects", "[[5, 0, 5, 5, 1]]", "unparsable_objects"),
    (13, "objects", "[[0, 0, NaN, 5, 1]]", "unparsable_objects"),
    (14, "objects", "[[0, 0, 5, 5, 1.5]]", "unparsable_objects"),
    (15, "objects", '{"a": 1}', "unparsable_objects"),
    (16, "objects", "[" + ", ".join(["[0, 0, 5, 5, 1]"] * 5) + "]", "too_many_boxes"),
    (17, "objects", "", "missing_objects"),
    (18, "photo", "../wide.png", "mask_size"),
    (19, "photo", "cut.png", "undecodable_image"),  # Behind its header.
    (20, "objects", f"[[0, 0, {'9' * 400}, 5, 1]]", "unparsable_objects"),
    (21, "objects", f"[[0, 0, 5, 5, {'9' * 400}]]", "unparsable_objects"),
    (22, "photo", "http://example.com/x.png", "missing_file_photo"),
    (23, "photo", "foo://bar/x", "missing_file_photo"),
    (24, "photo", "s3://", "missing_file_photo"),
    (25, "photo", "gs://", "missing_file_photo"),
    (26, "photo", "hdfs://x/y", "missing_file_photo"),
    (27, "photo", "pipe.png", "undecodable_image"),
]


@pytest.mark.parametrize("photo", ["", 'store = "float32"\nfeaturewise_center = true'])
def test_what_is_wrong_with_a_record_is_its_reason(photo, tmp_path):
    folder = tmp_path / "data"
    table = write_csv(folder, [cell[:3] for cell in BAD])
    (tmp_path / "wide.png").write_bytes(encoded(Image.new("RGB", (60, 20))))
    (folder / "cut.png").write_bytes(ROWS[19].photo[:200])
    os.mkfifo(folder / "pipe.png")
    info = run(spec_of(table, photo), str(tmp_path / "out"))
    assert set_aside(tmp_path / "out") == {number + 2: reason for number, _, _, reason in BAD}
    assert sum(info["rejected"].values()) == len(BAD)
    found = stored(tmp_path / "out", info)
    assert set(found) == set(range(len(ROWS))) - {number for number, *_ in BAD}
    details = {line["position"] - 2: line["detail"] for line in compare.set_aside(tmp_path / "out")}
    assert details[1] == f"{folder}/pictures/none.png: there is no such file"
    height, width = ROWS[5].mask.shape
    wrong = ROWS[6].mask.shape
    assert details[5] == (
        f"the mask has {wrong[1]} x {wrong[0]}, its image {width} x {height} pixels"
    )
    assert details[8] == f"[0, 0, 5, 1000] in an image of {ROWS[8].mask.shape[1]} x " + str(
        ROWS[8].mask.shape[0]
    )
    assert details[11] == "[0, 0, 5, 5]: a box has 5 numbers"
    assert details[16] == "5, but max_boxes is 4"


def test_too_many_images_that_are_not_there_stop_the_job(tmp_path):
    cells = [(number, "photo", f"elsewhere/{number}.png") for number in range(30)]
    spec = spec_of(write_csv(tmp_path, cells), text=SPEC.replace("max_rejected = 1\n", ""))
    with pytest.raises(DataError, match="30 of 36 records cannot be read") as error:
        run(spec, str(tmp_path / "out"))
    assert "missing_file_photo" in str(error.value)
    assert not (tmp_path / "out" / "dataset_info.json").exists()


FILTERS = """\
[[filter]]
name = "{name}"
where = "{where}"
"""


def test_filters_see_the_columns_and_what_the_headers_say(tmp_path):
    sizes = {row.number: row.mask.shape for row in ROWS}
    wide = FILTERS.format(name="wide", where="photo_width >= 30 OR photo_height = 24")
    heavy = FILTERS.format(name="heavy", where="photo_bytes > 1200 AND photo_channels = 3")
    odd = FILTERS.format(name="not_nine", where="number <> 9")
    cells = [(1, "photo", "pictures/none.png"), (9, "photo", "pictures/none.png")]
    info = run(spec_of(write_csv(tmp_path, cells), more=odd + wide + heavy), str(tmp_path / "out"))
    is_wide = {n for n, (height, width) in sizes.items() if width >= 30 or height == 24}
    is_heavy = {row.number for row in ROWS if len(row.photo) > 1200}
    assert set(stored(tmp_path / "out", info)) == (is_wide & is_heavy) - {1, 9}
    assert 3 < len(is_wide & is_heavy) < len(is_wide) < len(ROWS)
    reasons = set_aside(tmp_path / "out")
    assert reasons[1 + 2] == reasons[9 + 2] == "missing_file_photo"  # Looked at before the filters.


def test_only_images_that_the_rules_leave_are_looked_at(tmp_path):
    cells = [(9, "photo", "pictures/none.png")]
    odd = FILTERS.format(name="not_nine", where="number <> 9")
    run(spec_of(write_csv(tmp_path, cells), more=odd), str(tmp_path / "out"))
    assert set_aside(tmp_path / "out") == {9 + 2: "not_nine"}


def test_a_column_decides_the_split_and_an_expression_is_the_label(tmp_path):
    text = SPEC.replace(
        "fractions = { train = 0.7, test = 0.3 }",
        'column = "part"\nvalues = { train = ["a"], test = ["b"] }',
    )
    text = text.replace('column = "number"\ntype = "int64"', "expression = \"part || '-x'\"")
    table = write_csv(tmp_path)
    first, *others = table.read_text().splitlines()
    parts = [f"{line},{'abc'[number % 3]}" for number, line in enumerate(others)]
    table.write_text("\n".join([f"{first},part", *parts]))
    info = run(spec_of(table, text=text), str(tmp_path / "out"))
    assert info["label"]["classes"] == ["a-x", "b-x"]
    assert info["rejected"] == {"no_split": 12}
    assert info["splits"]["train"]["class_counts"] == {"a-x": 12, "b-x": 0}
    assert info["splits"]["test"]["class_counts"] == {"a-x": 0, "b-x": 12}


@pytest.mark.feature("pyarrow.parquet", "write_table", '`format = "parquet"`: also of images')
@pytest.mark.feature("tf.io", "TFRecordWriter", '`format = "tfrecord"`: also of images')
@pytest.mark.feature("tarfile", "TarFile", '`format = "webdataset"`: also of images')
@pytest.mark.parametrize("write", [write_parquet, write_tfrecord, write_tar])
def test_files_in_the_table_give_the_records_of_files_beside_it(write, squeezed, tmp_path):
    _, _, wanted = squeezed
    info = run(spec_of(write(tmp_path)), str(tmp_path / "out"))
    found = stored(tmp_path / "out", info)
    assert sorted(found) == sorted(wanted)
    for number, record in found.items():
        for name, value in record.items():
            np.testing.assert_array_equal(value, wanted[number][name])


PAIRS = """\
name = "pairs"
[source]
format = "csv"
paths = ["table.csv"]
[split]
fractions = { train = 0.7, test = 0.3 }
[features.before]
type = "image"
column = "photo"
size = [24, 16]
store = "float32"
featurewise_center = true
featurewise_std_normalization = true
[features.after]
type = "image"
column = "other"
size = [12, 12]
channels = 1
method = "nearest"
[label]
column = "number"
type = "int64"
[output]
num_shards = 2
max_rejected = 1
"""


def test_a_record_may_hold_several_images(tmp_path):
    import tensorflow as tf

    table = write_csv(tmp_path)
    first, *others = table.read_text().splitlines()
    other = [f"{line},pictures/{(n + 1) % len(ROWS)}.png" for n, line in enumerate(others)]
    (tmp_path / "cut.png").write_bytes(ROWS[5].photo[:200])
    other[4] = other[4].replace("pictures/5.png", "cut.png")
    table.write_text("\n".join([f"{first},other", *other]))
    (tmp_path / "spec.toml").write_text(PAIRS)
    info = run(load_spec(str(tmp_path / "spec.toml")), str(tmp_path / "out"))
    found = stored(tmp_path / "out", info)
    assert info["rejected"] == {"undecodable_image": 1} and 4 not in found
    assert set_aside(tmp_path / "out") == {4 + 2: "undecodable_image"}
    in_train = input_pipeline.load(tmp_path / "out", "train", 64, input_pipeline.Options())
    numbers = np.concatenate([labels for _, labels in in_train.as_numpy_iterator()]).tolist()
    # Record 4 took no part in the statistics of its other image either.
    exact_size = [n for n in numbers if ROWS[n].pixels.shape == (24, 16, 3)]
    statistics = info["features"]["before"]["statistics"]
    assert statistics["count"] == 24 * 16 * len(numbers)
    mean, std = np.array(statistics["mean"]), np.array(statistics["std"])
    for number in exact_size:
        wanted = ((ROWS[number].pixels.astype(np.float64) - mean) / std).astype(np.float32)
        np.testing.assert_array_equal(found[number]["before"], wanted)
    values = np.concatenate([found[n]["before"].reshape(-1, 3) for n in numbers]).astype(np.float64)
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(values.std(0), 1, atol=1e-6)
    for number in (0, 1, 2):
        pixels = ROWS[number + 1].pixels
        grey = np.asarray(Image.fromarray(pixels).convert("L"))
        small = nearest(pixels, 12, 12)
        np.testing.assert_array_equal(
            found[number]["after"][:, :, 0], np.asarray(Image.fromarray(small).convert("L"))
        )
        assert grey.shape == pixels.shape[:2]
    transform = tf.saved_model.load(str(tmp_path / "out" / "transform_fn")).transform_fn
    inputs = {
        "before": tf.constant([row.photo for row in ROWS]),
        "before_orientation": tf.constant([row.orientation for row in ROWS], tf.int64),
        "after": tf.constant([ROWS[(n + 1) % len(ROWS)].photo for n in range(len(ROWS))]),
        "after_orientation": tf.constant(
            [ROWS[(n + 1) % len(ROWS)].orientation for n in range(len(ROWS))], tf.int64
        ),
    }
    outputs = transform(inputs)
    for number, record in found.items():
        for name, value in record.items():
            np.testing.assert_array_equal(outputs[name].numpy()[number], value)


def test_transform_fn_takes_the_images_alone(squeezed):
    import tensorflow as tf

    folder, _, found = squeezed
    transform = tf.saved_model.load(str(folder / "transform_fn")).transform_fn
    outputs = transform(
        {
            "photo": tf.constant([row.photo for row in ROWS]),
            "photo_orientation": tf.constant([row.orientation for row in ROWS], tf.int64),
        }
    )
    assert set(outputs) == {"photo"}
    for number, record in found.items():
        np.testing.assert_array_equal(outputs["photo"].numpy()[number], record["photo"])


def test_the_loader_gives_every_feature(squeezed):
    folder, _, found = squeezed
    for batch, labels in input_pipeline.load(folder, "train", 4, input_pipeline.Options()):
        shapes = {name: tuple(value.shape[1:]) for name, value in batch.items()}
        assert shapes == {
            "photo": (24, 16, 3),
            "classes": (24, 16, 1),
            "objects": (4, 4),
            "objects_class": (4,),
        }
        dtypes = {name: value.dtype.name for name, value in batch.items()}
        assert dtypes == {
            "photo": "uint8",
            "classes": "uint8",
            "objects": "float32",
            "objects_class": "int64",
        }
        for place, number in enumerate(labels.numpy().tolist()):
            for name, value in batch.items():
                np.testing.assert_array_equal(value.numpy()[place], found[number][name])


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_the_bytes_depend_on_neither_threads_nor_blocks_nor_engine(write, tmp_path):
    photo = 'store = "float32"\nfeaturewise_center = true'
    spec = spec_of(write(tmp_path), photo)
    one = run(spec, str(tmp_path / "one"), num_threads=1)
    many = run(spec, str(tmp_path / "many"), num_threads=4, block_mb=0.0005)
    cluster = run(spec, str(tmp_path / "cluster"), runner=CLUSTER)
    assert one == many == cluster
    wanted = compare.bytes_of_shards(tmp_path / "one", one)
    assert wanted == compare.bytes_of_shards(tmp_path / "many", many)
    assert wanted == compare.bytes_of_shards(tmp_path / "cluster", cluster)
    assert not list(tmp_path.glob("*/.progress"))


@pytest.mark.parametrize("runner", ["local", CLUSTER])
def test_a_job_that_failed_goes_on_where_it_can(runner, tmp_path):
    spec = spec_of(write_parquet(tmp_path))
    whole = run(spec, str(tmp_path / "whole"))
    out = tmp_path / "out"
    (out / ".progress").mkdir(parents=True)
    run_until_it_fails(spec, out, runner=runner)
    shards = sorted(out.glob("*.tfrecord"))
    before = {path: path.stat().st_mtime_ns for path in shards}
    shards[0].unlink()
    assert run(spec, str(out), runner=runner)["splits"] == whole["splits"]
    assert [path for path in shards if path.stat().st_mtime_ns == before[path]] == shards[1:]


def test_equal_rows_of_tables_in_other_folders_are_records_of_their_own(tmp_path):
    spec_text = SPEC.replace("@TABLE@", "*/table.csv")
    for number, folder in enumerate(["a", "b", "a/again"]):
        table = write_csv(tmp_path / folder)
        red = encoded(Image.new("RGB", (16, 24), (number, 0, 0)))
        (tmp_path / folder / "pictures" / "1.png").write_bytes(red)
        first, *others = table.read_text().splitlines()
        table.write_text("\n".join([first, *others, others[1], others[1]]))
    (tmp_path / "a" / "again").rename(tmp_path / "c")
    orders = []
    for runner, name in (("local", "one"), (CLUSTER, "two")):
        said = spec_text.replace("@FORMAT@", "csv").replace("@PHOTO@", "").replace("@MORE@", "")
        (tmp_path / "spec.toml").write_text(said)
        info = run(load_spec(str(tmp_path / "spec.toml")), str(tmp_path / name), runner=runner)
        assert info["read"] == 3 * (len(ROWS) + 2)
        orders.append(compare.bytes_of_shards(tmp_path / name, info))
    assert orders[0] == orders[1]
    found = [record["photo"] for record in all_records(tmp_path / "one", info)]
    places = [place for place, photo in enumerate(found) if photo[:, :, 1:].max() == 0]
    reds = [int(found[place][0, 0, 0]) for place in places]
    assert sorted(reds) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert places[-1] - places[0] > len(places)  # They do not stand side by side.


def all_records(folder: Path, info: dict) -> list[dict]:
    """Every record of a split, in order."""
    found = []
    for split in info["splits"]:
        for batch, _ in input_pipeline.load(folder, split, 64, input_pipeline.Options()):
            arrays = {name: value.numpy() for name, value in batch.items()}
            length = len(arrays["photo"])
            found += [{n: value[place] for n, value in arrays.items()} for place in range(length)]
    return found


def test_verify_and_inspect_show_masks_and_boxes(squeezed, tmp_path):
    folder, _, found = squeezed
    done = headrace("verify", folder)
    assert (done.returncode, "sound" in done.stdout) == (0, True), done.stdout
    done = headrace("inspect", folder, "-n", 40, "--output", tmp_path)
    assert done.returncode == 0, done.stdout
    blocks = done.stdout.strip().split("train record ")[1:]
    assert len(blocks) > 10
    for place, block in enumerate(blocks):
        lines = dict(line.split(maxsplit=1) for line in block.splitlines()[1:])
        record = found[int(lines["label"])]
        mask = Image.open(tmp_path / f"train-{place:05d}-0-classes.png")
        np.testing.assert_array_equal(np.asarray(mask), record["classes"][:, :, 0])
        assert mask.mode == "P"
        there = [box for box in record["objects"].tolist() if box[0] >= 0]
        text = ", ".join(" ".join(f"{side:.4g}" for side in box) for box in there)
        assert lines["objects"].rstrip() == f"{len(there)} of at most 4: {text}".rstrip()


def test_a_model_learns_from_the_image_and_predicts_files(tmp_path):
    """Masks and boxes are no inputs of the default network."""
    import keras

    text = SPEC.replace('column = "number"\ntype = "int64"', "expression = \"'c' || (number % 2)\"")
    info = run(spec_of(write_csv(tmp_path), text=text), str(tmp_path / "out"))
    assert info["label"]["classes"] == ["c0", "c1"]
    done = headrace("train", tmp_path / "out", "--output", tmp_path / "model", "--epochs", 1)
    assert done.returncode == 0, done.stdout
    network = keras.models.load_model(tmp_path / "model" / "model.keras")
    assert list(network.input) == ["photo"]
    paths = [tmp_path / "pictures" / f"{row.number}.png" for row in ROWS[:8]]
    done = headrace("predict", tmp_path / "model", *paths, "--probabilities")
    assert done.returncode == 0, done.stdout
    answers = [json.loads(line) for line in done.stdout.splitlines() if line[0] == "{"]
    of_files = {path.name: answer for path, answer in zip(paths, answers, strict=True)}
    found = all_records(tmp_path / "out", info)
    for path, row in zip(paths, ROWS, strict=False):
        if row.pixels.shape != (24, 16, 3):
            continue
        assert any(np.array_equal(record["photo"], row.pixels) for record in found)
        wanted = network.predict({"photo": row.pixels[None]}, verbose=0)[0]
        got = list(of_files[path.name]["probabilities"].values())
        np.testing.assert_allclose(got, wanted, rtol=1e-4)
    done = headrace("export", tmp_path / "model", "--output", tmp_path / "saved")
    assert done.returncode == 0, done.stdout


def depths() -> dict[str, tuple[bytes, np.ndarray]]:
    """Masks of 12 x 10 pixels in every form: the file, and the values that it means."""
    rng = np.random.default_rng(5)
    found = {}
    for bits in (1, 2, 4, 8):
        values = rng.integers(0, 2**bits, (12, 10)).astype(np.uint8)
        found[f"palette of {bits} bits"] = palette_png(values, bits), values
        found[f"grey of {bits} bits"] = grey_png(values, bits), values
    values = rng.integers(0, 256, (12, 10)).astype(np.uint16)
    found["grey of 16 bits"] = encoded(Image.fromarray(values)), values.astype(np.uint8)
    few = rng.integers(0, 4, (12, 10)).astype(np.uint8)
    image = Image.fromarray(few, "P")
    image.putpalette([0, 0, 0, 250, 0, 0, 0, 250, 0, 0, 0, 250])
    found["gif"] = encoded(image, "GIF"), few
    found["transparent palette"] = encoded(image, transparency=1), few
    found["bmp"] = encoded(Image.fromarray(few), "BMP"), few
    return found


def png_of(values: np.ndarray, bits: int, color: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of samples of so many bits, written by hand."""
    digits = np.unpackbits(values[:, :, None], axis=2)[:, :, 8 - bits :].reshape(len(values), -1)
    lines = b"".join(b"\0" + line.tobytes() for line in np.packbits(digits, axis=1))
    header = struct.pack(">IIBBBBB", values.shape[1], len(values), bits, color, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def palette_png(values: np.ndarray, bits: int) -> bytes:
    colors = np.random.default_rng(6).integers(0, 256, 3 * 2**bits, np.uint8).tobytes()
    return png_of(values, bits, 3, (b"PLTE", colors))


def grey_png(values: np.ndarray, bits: int) -> bytes:
    return png_of(values, bits, 0)


def test_a_mask_keeps_the_values_that_its_file_holds(tmp_path):
    text = SPEC.replace("size = [24, 16]", "size = [12, 10]")
    masks = depths()
    table = [["photo", "mask", "objects", "number"]]
    (tmp_path / "photo.png").write_bytes(encoded(Image.new("RGB", (10, 12))))
    for number, (name, (data, _)) in enumerate(masks.items()):
        (tmp_path / name).write_bytes(data)
        table.append(["photo.png", name, "[]", number])
    others = {
        "rgb": Image.new("RGB", (10, 12)),
        "256": Image.fromarray(np.full((12, 10), 256, "u2")),
    }
    for name, image in others.items():
        (tmp_path / name).write_bytes(encoded(image))
        table.append(["photo.png", name, "[]", 99])
    with open(tmp_path / "table.csv", "w", newline="") as file:
        csv.writer(file).writerows(table)
    info = run(spec_of(tmp_path / "table.csv", text=text), str(tmp_path / "out"))
    found = stored(tmp_path / "out", info)
    for number, (name, (_, values)) in enumerate(masks.items()):
        np.testing.assert_array_equal(found[number]["classes"][:, :, 0], values, name)
    assert info["rejected"] == {"undecodable_image": 2} and len(masks) == 12
    assert sorted(line["detail"] for line in compare.set_aside(tmp_path / "out")) == [
        "a mask has one channel, grey or a palette's indices, but this one is RGB",
        "a mask has values up to 255, but this one has 256",
    ]


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('of = "photo"\ncolumn = "mask"', 'of = "phto"\ncolumn = "mask"',
         "features.classes.of: there is no image 'phto'"),
        ('column = "mask"', 'column = "masks"',
         "features.classes: there is no column 'masks'. The columns are photo, mask, objects, "),
        ("[features.objects]", '[features.number]\ndtype = "float32"\n[features.objects]',
         "features.number is a column, but a dataset with an image holds images, masks, boxes"),
        ("[features.objects]", "[features.photo_orientation]",
         "photo_orientation is the orientation of photo, and a feature"),
        ("max_boxes = 4\n", "", "features.objects.max_boxes: missing; add it."),
        ('size = [24, 16]', 'store = "png"',
         "features.classes: a mask needs an image of one size, but features.photo has no size"),
        ('of = "photo"\ncolumn = "mask"', 'column = "mask"', "features.classes.of: missing"),
    ],
)  # fmt: skip
def test_a_spec_that_makes_no_sense_is_one_line(old, new, message, tmp_path):
    table = write_csv(tmp_path)
    assert old in SPEC
    with pytest.raises(SpecError) as error:
        run(spec_of(table, text=SPEC.replace(old, new)), str(tmp_path / "out"))
    assert message in str(error.value)


def test_boxes_of_images_of_their_own_size_need_no_size(tmp_path):
    text = SPEC.replace("size = [24, 16]", 'store = "png"')
    start, end = text.index("[features.classes]"), text.index("[features.objects]")
    info = run(spec_of(write_csv(tmp_path), text=text[:start] + text[end:]), str(tmp_path / "out"))
    assert info["features"]["photo"]["shape"] == [None, None, 3]
    import tensorflow as tf

    for file in (tmp_path / "out").glob("*.tfrecord"):
        for data in records.frames(file.read_bytes()):
            features = tf.train.Example.FromString(data).features.feature
            row = ROWS[features["label"].int64_list.value[0]]
            photo = Image.open(io.BytesIO(features["photo"].bytes_list.value[0]))
            np.testing.assert_array_equal(np.asarray(photo), row.pixels)
            places = np.array(features["objects"].float_list.value, np.float32).reshape(4, 4)
            height, width = row.mask.shape
            np.testing.assert_array_equal(places, relative(row.boxes, 0, 0, width, height))
