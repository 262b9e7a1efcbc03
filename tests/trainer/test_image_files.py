"""EXIF orientation and PNG depth in TF ops, against Pillow and against what was written."""

import functools
import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from oracle.made_images import ORIENTATION, picture
from PIL import Image

from trainer import image_files

_PICTURE = picture(np.random.default_rng(1), 23, 11)


@functools.cache
def _function(channels):
    return tf.function(
        lambda files: image_files.read_batch(files, channels),
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )


def _read(*files, channels=3):
    made, orientations = _function(channels)(tf.constant(list(files)))
    return made.numpy().tolist(), orientations.numpy().tolist()


def _orientation(file):
    return _read(file)[1][0]


def _encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _tiff(value, order="<", kind=3, before=0):
    """An EXIF block with one directory: `before` other entries, then the orientation."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, before + 1)
    others = b"".join(struct.pack(f"{order}HHII", 0x100 + i, 3, 1, 7) for i in range(before))
    packed = struct.pack(order + {1: "B", 3: "H", 4: "I"}.get(kind, "H"), value).ljust(4, b"\0")
    return head + others + struct.pack(f"{order}HHI", ORIENTATION, kind, 1) + packed + bytes(4)


def _segment(marker, body):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def _jpeg(*segments):
    plain = _encoded(_PICTURE, "JPEG")
    return plain[:2] + b"".join(segments) + plain[2:]


def _exif(block):
    return _segment(0xE1, b"Exif\0\0" + block)


def _chunk(kind, body):
    crc = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + crc


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_what_pillow_writes(kind, orientation):
    exif = Image.Exif()
    if orientation:
        exif[ORIENTATION] = orientation
    file = _encoded(_PICTURE, kind, exif=exif)
    assert Image.open(io.BytesIO(file)).getexif().get(ORIENTATION) == orientation
    assert _read(file) == ([file], [orientation or 1])


@pytest.mark.parametrize(
    "block, orientation",
    [
        (_tiff(6, ">"), 6),
        (_tiff(6, "<", before=3), 6),
        (_tiff(6, ">", kind=1), 6),
        (_tiff(6, ">", kind=4), 6),
        (_tiff(6, kind=5), 1),
        (_tiff(0), 1),
        (_tiff(9), 1),
        (_tiff(6)[:-4], 6),
        (_tiff(6)[:-6], 6),  # The value itself is all there.
        (_tiff(6)[:-7], 1),
        (_tiff(6)[:12], 1),
        (_tiff(6)[:5], 1),
        (b"", 1),
        (b"XX" + _tiff(6)[2:], 1),
        (_tiff(6)[:4] + b"\xff\xff\xff\xff" + _tiff(6)[8:], 1),
        (_tiff(6)[:8] + b"\xff\xff" + _tiff(6)[10:], 6),
        (_tiff(6, before=1)[:10] + _tiff(8)[10:22] + _tiff(6)[10:], 8),  # The first one counts.
    ],
)
def test_exif_blocks_good_and_bad(block, orientation):
    assert _orientation(_jpeg(_exif(block))) == orientation
    png = _encoded(_PICTURE, "PNG")
    assert _orientation(png[:33] + _chunk(b"eXIf", block) + png[33:]) == orientation
    assert _orientation(png[:-12] + _chunk(b"eXIf", block) + png[-12:]) == orientation


@pytest.mark.parametrize(
    "segments",
    [
        [_segment(0xE0, b"JFIF\0" + bytes(9)), _exif(_tiff(6))],
        [_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"), _exif(_tiff(6))],
        [b"\xff\xff\xff", _exif(_tiff(6))],  # Fill bytes.
        [_segment(0xE0, b"JFIF\0" + bytes(9)), b"stray", _exif(_tiff(6))],
        [b"\xff" * 10_000, _exif(_tiff(6))],
        [b"\xff\x01" + bytes(10_000), _exif(_tiff(6))],
        [b"\xff\x01", _exif(_tiff(6))],  # A marker without a length.
        [_segment(0xFE, _exif(_tiff(8))), _exif(_tiff(6))],  # A comment that looks like one.
        [_exif(_tiff(6)), _exif(_tiff(8))],
        [_segment(0xE2, bytes(2**16 - 3))] * 3 + [_exif(_tiff(6))],
    ],
)
def test_segments_before_the_exif_block(segments):
    assert _orientation(_jpeg(*segments)) == 6


def test_an_exif_block_behind_the_size_counts_and_one_in_the_scan_does_not():
    plain = _encoded(_PICTURE, "JPEG")
    scan = plain.index(b"\xff\xda")
    assert _orientation(plain[:scan] + _exif(_tiff(6)) + plain[scan:]) == 6
    assert _orientation(plain[:-2] + _exif(_tiff(6)) + plain[-2:]) == 1


@pytest.mark.parametrize("mode", ["I;16", "RGB", "RGBA"])
@pytest.mark.parametrize("channels", [3, 4])
def test_a_png_of_16_bits_is_rounded(mode, channels):
    depth = {"I;16": 1, "RGB": 3, "RGBA": 4}[mode]
    samples = np.random.default_rng(2).integers(0, 65536, (5, 7, depth))
    samples[0, :4] = [[0], [128], [129], [65535]]
    color = {1: 0, 3: 2, 4: 6}[depth]
    rows = samples.astype(">u2").tobytes()
    lines = b"".join(b"\0" + rows[i : i + 14 * depth] for i in range(0, len(rows), 14 * depth))
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 7, 5, 16, color, 0, 0, 0))
    file = b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(lines))
    (made,), _ = _read(file + _chunk(b"IEND", b""), channels=channels)
    wanted = np.rint(samples / 257).astype(np.uint8)  # No tie can occur.
    pixels = tf.io.decode_png(made, channels).numpy()
    assert (pixels[..., :3] == wanted[..., :3]).all()
    if channels == 4:
        assert (pixels[..., 3] == (wanted[..., 3] if depth == 4 else 255)).all()


def test_png_of_8_bits_and_less_stay_as_they_are():
    files = [
        _encoded(_PICTURE.convert(mode), "PNG") for mode in ("RGB", "RGBA", "L", "LA", "P", "1")
    ]
    assert _read(*files) == (files, [1] * 6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="PNG of less than 8 bits"):
        _read(files[-1], channels=4)


@pytest.mark.parametrize(
    "file, message",
    [
        (_encoded(_PICTURE, "GIF"), "must be a JPEG or PNG file"),
        (_encoded(_PICTURE, "BMP"), "must be a JPEG or PNG file"),
        (_encoded(_PICTURE, "WEBP"), "must be a JPEG or PNG file"),
        (b"", "must be a JPEG or PNG file"),
        (b"no image", "must be a JPEG or PNG file"),
        (_encoded(_PICTURE.convert("CMYK"), "JPEG"), "a CMYK JPEG has to be converted"),
    ],
)
def test_other_files_are_errors(file, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        _read(file)


@pytest.mark.parametrize("segment", [b"\xff\xff\x01", b"\xff\x01x", b"\xff\xe0\0\0"])
def test_a_file_of_very_many_segments_is_an_error(segment):
    assert _orientation(_jpeg(segment * 5_000, _exif(_tiff(6)))) == 6
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 16384 segments"):
        _read(_jpeg(segment * 100_000))


def test_damaged_bytes_end_in_an_orientation_or_an_error():
    rng = np.random.default_rng(3)
    png = _encoded(_PICTURE, "PNG")
    sound = [_jpeg(_exif(_tiff(6))), png[:33] + _chunk(b"eXIf", _tiff(6)) + png[33:]]
    for i in range(300):
        data = bytearray(sound[i % 2])
        for place in rng.integers(8, 120, 3):
            data[place] = rng.integers(256)
        cut = int(rng.integers(4, 200)) if i % 3 == 0 else len(data)
        try:
            assert 1 <= _orientation(bytes(data[:cut])) <= 8
        except tf.errors.InvalidArgumentError as error:
            assert "has to be converted" in error.message or "must be" in error.message
