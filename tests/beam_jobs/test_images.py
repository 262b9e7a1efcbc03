"""Pixels against Pillow and NumPy: every format and mode, orientation, crop, resize, and damage."""

import functools
import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from beam_jobs.errors import SpecError
from beam_jobs.image_headers import UndecodableImage, read_header
from beam_jobs.images import METHODS, Decoder, ImagePolicy, canonical, decode_and_resize

DATA = Path(os.environ.get("HEADRACE_DATA", Path(__file__).parents[3] / "shared" / "data"))
HEIGHT, WIDTH = 37, 53


def field(height, width, seed=0):
    """A smooth random RGB image, like an unsharp photograph: uint8 (height, width, 3)."""
    coarse = np.random.default_rng(seed).integers(
        0, 256, (height // 5 + 2, width // 5 + 2, 3), np.uint8
    )
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(passes, height, width, depth, color, interlace=0, more=b""):
    """Packs rows of sample bytes, which may come in several passes, into a PNG."""
    rows = b"".join(b"\0" + row.tobytes() for one_pass in passes for row in one_pass)
    kind = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    chunks = chunk(b"IHDR", kind) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def adam7(samples):
    """Returns the seven passes of an interlaced PNG."""
    starts = (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)
    passes = [samples[top::down, left::right] for top, left, down, right in starts]
    return [*passes, samples[1::2]]


def ycck(data):
    """Declares the four components of a CMYK JPEG to be YCCK, in Adobe's segment."""
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0
    return data[:transform] + b"\x02" + data[transform + 1 :]


def without_adobe(data):
    start = data.index(b"\xff\xee")
    (length,) = struct.unpack_from(">H", data, start + 2)
    return data[:start] + data[start + 2 + length :]


def bmp_with_alpha(pixels):
    """A BMP with a BITMAPV4HEADER, whose masks give the fourth byte to alpha."""
    height, width, _ = pixels.shape
    body = pixels[::-1, :, [2, 1, 0, 3]].tobytes()
    fields = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(body), 0, 0, 0, 0)
    fields += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(52)
    return b"BM" + struct.pack("<IHHI", 122 + len(body), 0, 0, 122) + fields + body


RANDOM = np.random.default_rng(2)
RGB = field(HEIGHT, WIDTH)
ALPHA = Image.fromarray(RANDOM.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8))
RGBA = RGB.copy()
RGBA.putalpha(ALPHA)
GREY, LA, PALETTE, BITS = RGB.convert("L"), RGBA.convert("LA"), RGB.quantize(200), RGB.convert("1")
CMYK = Image.merge("CMYK", [*RGB.split(), GREY.point(lambda level: level // 2)])
TURNED = RGB.transpose(Image.Transpose.ROTATE_180)

# name -> (file, whether TensorFlow decodes it as it is)
FILES = {
    "jpeg rgb": (encode(RGB, "JPEG"), True),
    "jpeg rgb 4:4:4": (encode(RGB, "JPEG", subsampling=0, quality=95), True),
    "jpeg rgb 4:2:2": (encode(RGB, "JPEG", subsampling=1), True),
    "jpeg rgb not ycc": (encode(RGB, "JPEG", keep_rgb=True), True),
    "jpeg progressive": (encode(RGB, "JPEG", progressive=True), True),
    "jpeg restart markers": (encode(RGB, "JPEG", restart_marker_rows=1), True),
    "jpeg grey": (encode(GREY, "JPEG"), True),
    "jpeg cmyk": (encode(CMYK, "JPEG"), False),
    "jpeg ycck": (ycck(encode(CMYK, "JPEG")), False),
    "jpeg cmyk without adobe": (without_adobe(encode(CMYK, "JPEG")), False),
    "png grey": (encode(GREY, "PNG"), True),
    "png grey, key color": (encode(GREY, "PNG", transparency=GREY.getpixel((3, 3))), True),
    "png grey + alpha": (encode(LA, "PNG"), True),
    "png rgb": (encode(RGB, "PNG"), True),
    "png rgb, key color": (encode(RGB, "PNG", transparency=RGB.getpixel((3, 3))), True),
    "png rgba": (encode(RGBA, "PNG"), True),
    "png palette": (encode(PALETTE, "PNG"), True),
    "png palette, alpha": (encode(PALETTE, "PNG", transparency=bytes(range(200))), True),
    "png interlaced": (png(adam7(np.asarray(RGB)), HEIGHT, WIDTH, 8, 2, 1), True),
    "png interlaced grey": (png(adam7(np.asarray(GREY)), HEIGHT, WIDTH, 8, 0, 1), True),
    "png interlaced rgba": (png(adam7(np.asarray(RGBA)), HEIGHT, WIDTH, 8, 6, 1), True),
    "png 1 bit": (encode(BITS, "PNG"), False),
    "png palette 4 bits": (encode(RGB.quantize(13), "PNG"), False),
    "png palette 2 bits, alpha": (encode(RGB.quantize(4), "PNG", transparency=b"\1\2\3"), False),
    "gif": (encode(PALETTE, "GIF"), False),
    "gif grey": (encode(GREY, "GIF"), False),
    "gif transparent": (encode(PALETTE, "GIF", transparency=PALETTE.getpixel((9, 9))), False),
    "gif animated": (encode(RGB, "GIF", save_all=True, append_images=[TURNED]), False),
    "bmp 24": (encode(RGB, "BMP"), False),
    "bmp 32": (encode(RGBA, "BMP"), False),
    "bmp 32, alpha mask": (bmp_with_alpha(np.asarray(RGBA)), False),
    "bmp palette": (encode(PALETTE, "BMP"), False),
    "bmp grey": (encode(GREY, "BMP"), False),
    "bmp 1 bit": (encode(BITS, "BMP"), False),
    "webp": (encode(RGB, "WEBP"), False),
    "webp lossless": (encode(RGB, "WEBP", lossless=True), False),
    "webp alpha": (encode(RGBA, "WEBP"), False),
    "webp lossless alpha": (encode(RGBA, "WEBP", lossless=True, exact=True), False),
    "webp animated": (encode(RGB, "WEBP", save_all=True, append_images=[TURNED]), False),
}


class PixelDecoder(Decoder):
    """Gives the pixels alone: here they are what is stored."""

    def decode(self, files, orientations):
        decoded, broken = super().decode(files, orientations)
        return decoded.pixels, broken


@functools.cache
def decoder(height=HEIGHT, width=WIDTH, channels=3, **options):
    return PixelDecoder(ImagePolicy(height, width, channels, **options))


def decode(data, *policy, **options):
    """Goes the whole way for one file that is in order: uint8 (height, width, channels)."""
    header = read_header(data)
    images, broken = decoder(*policy, **options).decode(
        [canonical(data, header)], [header.orientation]
    )
    assert broken == {}
    assert images.dtype == np.uint8 and len(images) == 1
    return images[0]


def expected(image, channels):
    """What Pillow makes of an open image, alpha dropped instead of composited: (h, w, channels)."""
    if image.mode == "CMYK":
        image = image.convert("RGB")
    rgba = image.convert("RGBA")
    if channels == 4:
        return np.asarray(rgba)
    rgb = Image.fromarray(np.asarray(rgba)[..., :3])
    return np.asarray(rgb if channels == 3 else rgb.convert("L")).reshape(*rgb.size[::-1], channels)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_format_and_mode_at_its_own_size_is_what_pillow_says(name, channels):
    image = Image.open(io.BytesIO(FILES[name][0]))
    assert image.size == (WIDTH, HEIGHT)
    pixels = expected(image, channels)
    assert len(np.unique(pixels)) >= (2 if "bit" in name else 100)
    np.testing.assert_array_equal(decode(FILES[name][0], HEIGHT, WIDTH, channels), pixels)


@pytest.mark.parametrize("name", FILES)
def test_only_what_tensorflow_gets_wrong_is_encoded_again(name):
    data, is_native = FILES[name]
    again = canonical(data, read_header(data))
    assert (again is data) == is_native
    assert is_native or (again[:4], again[24]) == (b"\x89PNG", 8)


def test_lossless_files_give_the_pixels_that_were_saved():
    for name in ("png rgb", "png interlaced", "bmp 24", "webp lossless"):
        np.testing.assert_array_equal(decode(FILES[name][0]), np.asarray(RGB))
    for name in ("png rgba", "png interlaced rgba", "bmp 32, alpha mask", "webp lossless alpha"):
        np.testing.assert_array_equal(
            decode(FILES[name][0], HEIGHT, WIDTH, 4), np.asarray(RGBA), name
        )


def test_grey_of_2_and_4_bits_is_spread_over_0_to_255():
    levels = RANDOM.integers(0, 4, (HEIGHT, 52), dtype=np.uint8)
    two = levels[:, 0::4] << 6 | levels[:, 1::4] << 4 | levels[:, 2::4] << 2 | levels[:, 3::4]
    four = (levels[:, 0::2] * 5) << 4 | levels[:, 1::2] * 5
    for depth, packed in (2, two), (4, four):
        pixels = decode(png([packed], HEIGHT, 52, depth, 0), HEIGHT, 52, 1)
        np.testing.assert_array_equal(pixels[..., 0], levels * 85)


@pytest.mark.parametrize("color, samples", [(0, 1), (4, 2), (2, 3), (6, 4)])
@pytest.mark.parametrize("interlace", [0, 1])
def test_16_bits_become_8_by_x_over_257_rounded(color, samples, interlace):
    values = RANDOM.integers(0, 2**16, (HEIGHT, WIDTH, samples)).astype(">u2")
    values[0, :9, 0] = [0, 128, 129, 255, 256, 385, 386, 65406, 65535]
    passes = adam7(values) if interlace else [values]
    data = png(passes, HEIGHT, WIDTH, 16, color, interlace)
    pixels = decode(data, HEIGHT, WIDTH, 4)
    scaled = np.rint(values / 257).astype(np.uint8)
    assert scaled[0, :9, 0].tolist() == [0, 0, 1, 1, 1, 1, 2, 254, 255]
    colors = scaled[..., :1] if samples < 3 else scaled[..., :3]
    np.testing.assert_array_equal(pixels[..., :3], np.broadcast_to(colors, (HEIGHT, WIDTH, 3)))
    alpha = scaled[..., -1] if samples in (2, 4) else 255
    np.testing.assert_array_equal(pixels[..., 3], np.broadcast_to(alpha, (HEIGHT, WIDTH)))


def test_a_16_bit_key_color_is_transparent():
    values = RANDOM.integers(0, 2**16, (HEIGHT, WIDTH, 1)).astype(">u2")
    values[4, 5] = values[6, 7]
    data = png([values], HEIGHT, WIDTH, 16, 0, more=chunk(b"tRNS", values[4, 5].tobytes()))
    is_opaque = decode(data, HEIGHT, WIDTH, 4)[..., 3] == 255
    assert not is_opaque[4, 5]
    np.testing.assert_array_equal(is_opaque, values[..., 0] != values[4, 5])


def test_cmyk_is_inverted_as_adobe_stores_it():
    stored = np.asarray(Image.open(io.BytesIO(FILES["jpeg cmyk"][0]))).astype(np.float64)
    rgb = (255 - stored[..., :3]) * (255 - stored[..., 3:]) / 255
    assert np.abs(decode(FILES["jpeg cmyk"][0]) - rgb).max() <= 1


EXIF_FORMATS = {"JPEG": {"quality": 90}, "PNG": {}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("file_format", EXIF_FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(file_format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(RGB, file_format, exif=exif, **EXIF_FORMATS[file_format])
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    is_turned = orientation > 4
    assert upright.shape == ((WIDTH, HEIGHT, 3) if is_turned else (HEIGHT, WIDTH, 3))
    np.testing.assert_array_equal(decode(data, *upright.shape[:2]), upright)


@pytest.mark.parametrize(
    "source, target, box",
    [  # (height, width) twice, then the box (top, left, height, width)
        ((5, 8), (5, 5), (0, 1, 5, 5)),
        ((9, 4), (4, 4), (2, 0, 4, 4)),
        ((8, 8), (8, 3), (0, 2, 8, 3)),
        ((7, 10), (2, 3), (0, 0, 6, 10)),
        ((7, 11), (2, 3), (0, 0, 7, 10)),
        ((7, 12), (3, 4), (0, 1, 7, 9)),
        ((37, 53), (7, 5), (0, 13, 37, 26)),
        ((1, 50), (40, 2), (0, 24, 1, 1)),
        ((50, 1), (2, 40), (24, 0, 1, 1)),
    ],
)
def test_the_center_crop(source, target, box):
    image = field(*source)
    top, left, height, width = box
    crop = image.crop((left, top, left + width, top + height))
    squeezed = decode(encode(crop, "PNG"), *target)
    cropped = decode(encode(image, "PNG"), *target, crop="center")
    np.testing.assert_array_equal(cropped, squeezed)
    if (height, width) == target:
        np.testing.assert_array_equal(cropped, np.asarray(crop))
    assert source == box[2:] or (decode(encode(image, "PNG"), *target) != cropped).any()


def test_the_crop_comes_after_the_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = field(20, 51)
    data = encode(image, "PNG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert upright.size == (20, 51)
    cropped = decode(data, 20, 20, crop="center")
    np.testing.assert_array_equal(cropped, np.asarray(upright)[15:35])


def photographs():
    """Real photographs where there are some, else images that vary as smoothly."""
    paths = sorted(DATA.glob("photos/*.JPEG"))[::9] + sorted(DATA.glob("exif/*.jpg"))
    made = [
        encode(field(480 + seed, 640 - seed, seed), "JPEG", quality=90 - seed) for seed in range(4)
    ]
    return [path.read_bytes() for path in paths] or made


def test_photographs_at_their_own_size_are_what_pillow_says():
    for data in photographs():
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)).convert("RGB"))
        assert upright.width * upright.height > 10_000
        orientation = tf.constant(read_header(data).orientation, tf.int64)
        policy = ImagePolicy(upright.height, upright.width)
        pixels = decode_and_resize(tf.constant(data), orientation, policy)
        np.testing.assert_array_equal(pixels, np.asarray(upright))


@pytest.mark.parametrize("crop", ["none", "center"])
def test_photographs_resized_are_within_one_level_of_pillow(crop):
    for data in photographs():
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)).convert("RGB"))
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        if crop == "center":  # Not resize(box=...), which lets pixels around the box bleed in.
            image = image.crop((left, top, left + side, top + side))
        oracle = image.resize((224, 224), Image.Resampling.BILINEAR)
        difference = np.abs(decode(data, 224, 224, crop=crop) - np.asarray(oracle).astype(int))
        assert difference.max() <= 1 and difference.mean() < 0.3


def test_without_antialias_the_result_is_another_one():
    data = encode(field(300, 200), "PNG")
    assert (decode(data, 32, 32) != decode(data, 32, 32, antialias=False)).mean() > 0.1


def test_halves_are_rounded_to_even():
    image = np.zeros((1, 12, 3), np.uint8)
    image[0, :, 0] = [0, 1, 1, 2, 2, 3, 3, 4, 254, 255, 253, 254]
    pixels = decode(encode(Image.fromarray(image), "PNG"), 1, 6, antialias=False)
    assert pixels[0, :, 0].tolist() == [0, 2, 2, 4, 254, 254]  # 0.5 1.5 2.5 3.5 254.5 253.5


@pytest.mark.parametrize("method", METHODS)
def test_every_method_stays_in_range_and_leaves_the_right_size_alone(method):
    edge = np.zeros((12, 12, 3), np.uint8)
    edge[:, 11:] = 255  # The last values overshoot: a cast's vector code would clip, its tail not.
    data = encode(Image.fromarray(edge), "PNG")
    np.testing.assert_array_equal(decode(data, 12, 12, method=method), edge)
    larger = decode(data, 31, 31, method=method)
    assert larger[:, :20].max() < 60 and larger[:, -1].min() > 150  # Nothing wraps around.
    if method == "nearest":
        nearest = (2 * np.arange(31) + 1) * 12 // 62  # the pixel that holds the center
        np.testing.assert_array_equal(larger, edge[nearest][:, nearest])


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_white_stays_white_in_every_method(method, antialias):
    data = encode(Image.new("RGB", (53, 37), (255, 255, 255)), "PNG")
    for height, width in ((31, 31), (100, 7), (37, 54), (1, 1)):
        pixels = decode(data, height, width, method=method, antialias=antialias)
        assert pixels.shape == (height, width, 3) and (pixels == 255).all()


def test_an_image_is_the_same_alone_and_in_any_batch():
    files = [encode(field(100 + 7 * i, 150 - 3 * i, i), "JPEG") for i in range(16)]
    together, broken = decoder(64, 64).decode(files, [1] * 16)
    assert broken == {} and together.shape == (16, 64, 64, 3)
    alone = [decoder(64, 64).decode([file], [1])[0][0] for file in files]
    np.testing.assert_array_equal(together, np.stack(alone))
    assert len({image.tobytes() for image in alone}) == 16


def test_threads_share_a_decoder():
    files = [encode(field(90 + i, 80, i), "JPEG") for i in range(24)]
    expected_images = decoder(64, 64).decode(files, [1] * 24)[0]
    batches = [files[start:] + files[:start] for start in range(24)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda batch: decoder(64, 64).decode(batch, [1] * 24), batches))
    for start, (images, broken) in enumerate(results):
        assert broken == {}
        np.testing.assert_array_equal(images, np.roll(expected_images, -start, axis=0))


GOOD, GOOD_PNG = FILES["jpeg rgb"][0], FILES["png rgb"][0]
NOT_AN_IMAGE = "Unknown image file format. One of JPEG, JPEG XL, PNG, GIF, BMP, WebP required."
BROKEN_JPEG = "jpeg::Uncompress failed. Invalid JPEG data or crop window."


def flipped(data, position):
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


BROKEN = {
    "empty": (b"", "Input is empty."),
    "text": (b"id,label\n1,cat\n", NOT_AN_IMAGE),
    "jpeg cut in the scan": (GOOD[: len(GOOD) - 200], BROKEN_JPEG),
    "jpeg cut in the header": (GOOD[:100], BROKEN_JPEG),
    "jpeg without its last byte": (GOOD[:-1], BROKEN_JPEG),
    "png cut": (GOOD_PNG[:-400], f"Invalid PNG data, size {len(GOOD_PNG) - 400}"),
    "png, wrong checksum": (flipped(GOOD_PNG, -13), f"Invalid PNG data, size {len(GOOD_PNG)}"),
    "png, damaged pixels": (flipped(GOOD_PNG, 500), f"Invalid PNG data, size {len(GOOD_PNG)}"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_broken_file_is_set_aside_and_the_others_are_kept(name, channels):
    data, reason = BROKEN[name]
    files = [GOOD, data, FILES["jpeg grey"][0]]
    images, broken = decoder(HEIGHT, WIDTH, channels).decode(files, [1, 1, 1])
    assert broken == {1: reason}
    assert images.shape == (2, HEIGHT, WIDTH, channels)
    for image, good in zip(images, (files[0], files[2]), strict=True):
        oracle = expected(Image.open(io.BytesIO(good)), channels)
        np.testing.assert_array_equal(image, oracle)


def test_all_broken_and_no_files():
    images, broken = decoder().decode([b"", b"?"], [1, 1])
    assert images.shape == (0, HEIGHT, WIDTH, 3) and sorted(broken) == [0, 1]
    images, broken = decoder().decode([], [])
    assert images.shape == (0, HEIGHT, WIDTH, 3) and broken == {}


def test_bytes_after_the_image_do_no_harm():
    for name in ("jpeg rgb", "png rgb"):
        data = FILES[name][0]
        np.testing.assert_array_equal(decode(data + b"\0\0trailing\0"), decode(data))


@pytest.mark.parametrize("name", [name for name, (_, native) in FILES.items() if not native])
def test_a_cut_file_that_has_to_be_encoded_again_is_undecodable(name):
    data = FILES[name][0]
    with pytest.raises(UndecodableImage) as caught:
        canonical(data[: len(data) // 3], read_header(data))
    assert str(caught.value).startswith("broken ") and "\n" not in str(caught.value)


def test_a_png_with_a_compressed_bomb_beside_its_pixels():
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()
    data = GOOD_PNG[:33] + chunk(b"zTXt", b"Comment\0\0" + bomb) + GOOD_PNG[33:]
    np.testing.assert_array_equal(decode(data), np.asarray(RGB))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"height": 0}, "image size must be positive, but is 0 x 8."),
        ({"channels": 2}, "image channels must be one of (1, 3, 4), but is 2."),
        ({"method": "cubic"}, "image resize method must be one of"),
        ({"crop": "random"}, "image crop must be one of ('none', 'center'), but is 'random'."),
    ],
)
def test_a_wrong_policy_is_refused(changes, message):
    with pytest.raises(SpecError) as caught:
        ImagePolicy(**{"height": 8, "width": 8, **changes})
    assert message in str(caught.value)
