"""Headers against the files that Pillow writes, and against bytes that nobody should write."""

import io
import os
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beam_jobs.image_headers import (
    MAX_PIXELS,
    ImageHeader,
    TooLargeImage,
    UndecodableImage,
    exif_orientation,
    one_line,
    read_header,
)

DATA = Path(os.environ.get("HEADRACE_DATA", Path(__file__).parents[3] / "shared" / "data"))
HEIGHT, WIDTH = 11, 17
RGB = Image.fromarray(np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
RGBA = RGB.copy()
RGBA.putalpha(RGB.convert("L"))


def encode(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width, height, depth=8, color=2):
    fields = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", fields)


def tiff(value, order="<", kind=3, tag=0x0112, before=0):
    """An EXIF block with one directory: `before` other entries, then the tag."""
    layout = {1: "B3x", 3: "H2x", 4: "I"}[kind]
    entries = struct.pack(order + "HHIHxx", 0x0128, 3, 1, 2) * before
    entries += struct.pack(order + "HHI" + layout, tag, kind, 1, value)
    prefix = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return prefix + struct.pack(order + "H", before + 1) + entries + bytes(4)


def with_exif(file_format, exif):
    """A file of WIDTH x HEIGHT stored pixels that carries the EXIF block."""
    if file_format == "JPEG":
        data, body = encode(RGB, "JPEG"), b"Exif\0\0" + exif
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    if file_format == "PNG":
        data = encode(RGB, "PNG")
        return data[:33] + chunk(b"eXIf", exif) + data[33:]
    if file_format == "PNG, at the end":
        data = encode(RGB, "PNG")
        return data[:-12] + chunk(b"eXIf", exif) + data[-12:]
    data = encode(RGB, "WEBP", exif=b"Exif\0\0" + exif)
    assert data[12:16] == b"VP8X"
    return data


def bmp_with_alpha():
    """A BMP with a BITMAPV4HEADER, whose masks give the fourth byte to alpha."""
    pixels = np.asarray(RGBA)[::-1, :, [2, 1, 0, 3]].tobytes()
    fields = struct.pack("<IiiHHIIiiII", 108, WIDTH, HEIGHT, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    fields += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(52)
    return b"BM" + struct.pack("<IHHI", 122 + len(pixels), 0, 0, 122) + fields + pixels


GREY, PALETTE = RGB.convert("L"), RGB.quantize(32)
MODES = {
    "jpeg rgb": (encode(RGB, "JPEG"), "JPEG", 3),
    "jpeg progressive": (encode(RGB, "JPEG", progressive=True), "JPEG", 3),
    "jpeg grey": (encode(GREY, "JPEG"), "JPEG", 1),
    "jpeg cmyk": (encode(RGB.convert("CMYK"), "JPEG"), "JPEG", 4),
    "png 1 bit": (encode(RGB.convert("1"), "PNG"), "PNG", 1),
    "png grey": (encode(GREY, "PNG"), "PNG", 1),
    "png grey, key color": (encode(GREY, "PNG", transparency=3), "PNG", 2),
    "png grey + alpha": (encode(RGBA.convert("LA"), "PNG"), "PNG", 2),
    "png rgb": (encode(RGB, "PNG"), "PNG", 3),
    "png rgb, key color": (encode(RGB, "PNG", transparency=(1, 2, 3)), "PNG", 4),
    "png rgba": (encode(RGBA, "PNG"), "PNG", 4),
    "png palette": (encode(PALETTE, "PNG"), "PNG", 3),
    "png palette, transparency": (encode(PALETTE, "PNG", transparency=2), "PNG", 4),
    "png grey 16 bits": (encode(Image.new("I;16", (WIDTH, HEIGHT)), "PNG"), "PNG", 1),
    "gif": (encode(PALETTE, "GIF"), "GIF", 3),
    "gif grey": (encode(GREY, "GIF"), "GIF", 3),
    "gif transparent": (encode(PALETTE, "GIF", transparency=2), "GIF", 4),
    "gif animated": (encode(PALETTE, "GIF", save_all=True, append_images=[GREY]), "GIF", 3),
    "bmp 24": (encode(RGB, "BMP"), "BMP", 3),
    "bmp 32": (encode(RGBA, "BMP"), "BMP", 3),  # Without alpha masks the fourth byte is padding.
    "bmp 32, alpha mask": (bmp_with_alpha(), "BMP", 4),
    "bmp palette": (encode(PALETTE, "BMP"), "BMP", 3),
    "bmp grey": (encode(GREY, "BMP"), "BMP", 1),
    "bmp 1 bit": (encode(RGB.convert("1"), "BMP"), "BMP", 1),
    "webp": (encode(RGB, "WEBP"), "WEBP", 3),
    "webp lossless": (encode(RGB, "WEBP", lossless=True), "WEBP", 3),
    "webp alpha": (encode(RGBA, "WEBP"), "WEBP", 4),
    "webp lossless alpha": (encode(RGBA, "WEBP", lossless=True), "WEBP", 4),
    "webp animated": (encode(RGB, "WEBP", save_all=True, append_images=[GREY]), "WEBP", 3),
}


@pytest.mark.parametrize("name", MODES)
def test_every_format_and_mode(name):
    data, file_format, channels = MODES[name]
    assert Image.open(io.BytesIO(data)).size == (WIDTH, HEIGHT)
    assert read_header(data) == ImageHeader(file_format, WIDTH, HEIGHT, channels, 1)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "PNG, at the end", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_the_one_after_the_orientation(file_format, orientation):
    data = with_exif(file_format, tiff(orientation))
    assert Image.open(io.BytesIO(data)).size == (WIDTH, HEIGHT)
    size = (HEIGHT, WIDTH) if orientation in (5, 6, 7, 8) else (WIDTH, HEIGHT)
    assert read_header(data) == ImageHeader(file_format.split(",")[0], *size, 3, orientation)


@pytest.mark.parametrize(
    "exif, orientation",
    [
        (tiff(6), 6),
        (tiff(6, ">"), 6),
        (tiff(6, before=7), 6),
        (tiff(6, kind=1), 6),
        (tiff(6, ">", kind=4), 6),
        (b"Exif\0\0" + tiff(6, ">"), 6),
        (tiff(0), 1),
        (tiff(9), 1),
        (tiff(6, tag=0x0113), 1),
        (tiff(6)[:-8], 1),
        (tiff(6)[:9], 1),
        (tiff(6).replace(b"\x12\x01\x03", b"\x12\x01\x07"), 1),
        (b"XX" + tiff(6)[2:], 1),
        (b"", 1),
        (b"II*\0\xff\xff\xff\xff", 1),
    ],
)
def test_exif_blocks_good_and_bad(exif, orientation):
    assert exif_orientation(exif) == orientation
    assert read_header(with_exif("JPEG", exif.removeprefix(b"Exif\0\0"))).orientation == orientation


def test_the_first_exif_block_with_a_directory_counts():
    data = with_exif("JPEG", tiff(6))
    body = b"Exif\0\0" + tiff(3)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    assert data.count(b"Exif\0\0") == 2
    assert read_header(data).orientation == 3


def test_a_jpeg_may_have_fill_bytes_stray_bytes_and_other_segments():
    data = MODES["jpeg rgb"][0]
    extra = b"\xff\xff\xff\xfe\x00\x04hi" + b"stray" + b"\xff\xe2\x00\x06\xff\xc0\x00\x08"
    assert read_header(data[:2] + extra + data[2:]) == read_header(data)


def test_a_webp_chunk_of_odd_length_is_padded():
    data = with_exif("WEBP", tiff(6))
    exif = data.index(b"EXIF")
    longer = data[:exif] + b"XXXX" + struct.pack("<I", 3) + b"EXI\0" + data[exif:]
    assert read_header(longer).orientation == 6


def test_the_scale_bits_of_a_webp_are_not_part_of_its_size():
    data = bytearray(MODES["webp"][0])
    assert data[12:16] == b"VP8 " and data[27] == data[29] == 0
    data[27] = data[29] = 0x40
    assert read_header(bytes(data)) == read_header(MODES["webp"][0])


def test_a_jpeg_of_nothing_but_segments_costs_no_time():
    data = MODES["jpeg rgb"][0]
    assert read_header(data[:2] + b"\xff\xe3\x00\x02" * 1_000 + data[2:]).width == WIDTH
    with pytest.raises(UndecodableImage, match="without a frame header"):
        read_header(data[:2] + b"\xff\xe3\x00\x02" * 2**17 + data[2:])


def test_a_reason_is_one_short_line():
    assert one_line(ValueError("two\n  lines")) == "two lines"
    assert one_line(ValueError("x" * 300)) == "x" * 200
    assert one_line(EOFError()) == "EOFError"


@pytest.mark.parametrize(
    "data, detail",
    [
        (b"", "empty file"),
        (b"id,label\n1,cat\n", "no JPEG, PNG, GIF, BMP or WebP header"),
        (encode(RGB, "TIFF"), "no JPEG, PNG, GIF, BMP or WebP header"),
        (MODES["jpeg rgb"][0][:3], "the JPEG header is cut short"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "the JPEG header is cut short"),
        (b"\xff\xd8\xff\xd9", "a JPEG without a frame header before its first scan"),
        (
            b"\xff\xd8\xff\xc0\x00\x0b\x0c\x00\x05\x00\x05\x01\x00\x00\x00\xff\xda",
            "a JPEG of 1 components of 12 bits",
        ),
        (MODES["png rgb"][0][:20], "the PNG header is cut short"),
        (
            MODES["png rgb"][0].replace(struct.pack(">I", WIDTH), struct.pack(">I", WIDTH + 1), 1),
            "a PNG whose IHDR chunk is missing or has a wrong checksum",
        ),
        (png_header(5, 5, color=5), "a PNG of color type 5 and 8 bits"),
        (png_header(0, 5), "the PNG header says 0 x 5 pixels"),
        (MODES["gif"][0][:9], "the GIF header is cut short"),
        (MODES["webp"][0][:20], "a WebP without a VP8, VP8L or VP8X header"),
        (MODES["webp animated"][0][:25], "the WEBP header is cut short"),
    ],
)
def test_broken_headers_have_a_reason_of_one_line(data, detail):
    with pytest.raises(UndecodableImage) as caught:
        read_header(data)
    assert str(caught.value) == detail


@pytest.mark.parametrize("data", [MODES["bmp 24"][0][:20], MODES["gif"][0][:20]])
def test_a_header_that_pillow_refuses(data):
    with pytest.raises(UndecodableImage, match=r"^(broken|the) (BMP|GIF) header\b"):
        read_header(data)


def large(file_format, width, height):
    if file_format == "PNG":
        return png_header(width, height) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    if file_format == "JPEG":
        frame = MODES["jpeg rgb"][0].index(b"\xff\xc0") + 5
        size = struct.pack(">HH", height, width)
        return MODES["jpeg rgb"][0][:frame] + size + MODES["jpeg rgb"][0][frame + 4 :]
    if file_format == "GIF":
        return MODES["gif"][0][:6] + struct.pack("<HH", width, height) + MODES["gif"][0][10:]
    if file_format == "GIF, first frame":
        data = MODES["gif"][0]
        frame = data.index(b",\0\0\0\0" + struct.pack("<HH", WIDTH, HEIGHT)) + 5
        return data[:frame] + struct.pack("<HH", width, height) + data[frame + 4 :]
    if file_format == "BMP":
        data = MODES["bmp 24"][0]
        return data[:18] + struct.pack("<ii", width, height) + data[26:]
    sides = b"".join((side - 1).to_bytes(3, "little") for side in (width, height))
    return MODES["webp animated"][0][:24] + sides + MODES["webp animated"][0][30:]


FORMATS = ["PNG", "JPEG", "GIF", "GIF, first frame", "BMP", "WEBP"]


@pytest.mark.parametrize("file_format", FORMATS)
def test_more_pixels_than_the_limit_are_refused_quietly(file_format):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TooLargeImage, match="pixels"):
            read_header(large(file_format, 60_000, 60_000))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_the_limit_itself_is_allowed_and_prints_nothing(file_format):
    assert 16_384 * 8_192 == MAX_PIXELS > Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        header = read_header(large(file_format, 16_384, 8_192))
        assert (header.width, header.height) == (16_384, 8_192)
        with pytest.raises(TooLargeImage, match="16384 x 8193 pixels, but the limit is 134217728"):
            read_header(large(file_format, 16_384, 8_193))


@pytest.mark.parametrize("kind, prefix", [(b"zTXt", b"Comment\0\0"), (b"iCCP", b"profile\0\0")])
def test_a_compressed_bomb_beside_the_pixels_is_not_inflated(kind, prefix):
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(256)) + packer.flush()
    data = MODES["png rgb"][0]
    data = data[:33] + chunk(kind, prefix + bomb) + data[33:]
    tracemalloc.start()
    try:
        assert read_header(data).channels == 3
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", MODES)
def test_damaged_bytes_end_in_a_header_or_in_one_of_the_two_errors(name):
    data = MODES[name][0]
    random = np.random.default_rng(len(name))
    failures = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, for damaged GIF frames of 100 million pixels.
        for _ in range(150):
            damaged = bytearray(data[: random.integers(2, len(data))])
            for position in random.integers(0, min(len(damaged), 60), 2):
                damaged[position] = random.integers(0, 256)
            try:
                header = read_header(bytes(damaged))
                assert 1 <= header.width * header.height <= MAX_PIXELS
            except (UndecodableImage, TooLargeImage) as error:
                failures += 1
                assert 0 < len(str(error)) <= 250 and "\n" not in str(error)
    assert 0 < failures


@pytest.mark.skipif(not (DATA / "photos").is_dir(), reason="needs the photographs")
@pytest.mark.parametrize("pattern", ["photos/*.JPEG", "exif/*.jpg", "cifar10/test/*/*"])
def test_real_files_against_pillow(pattern):
    paths = sorted(DATA.glob(pattern))
    assert len(paths) > 5
    for path in paths:
        image = Image.open(path)
        orientation = image.getexif().get(0x0112, 1)
        size = image.size if orientation < 5 else image.size[::-1]
        expected = ImageHeader("JPEG", *size, len(image.getbands()), orientation)
        assert read_header(path.read_bytes()) == expected
