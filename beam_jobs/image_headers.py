"""What the first bytes of an image file say: format, size, channels, EXIF orientation.

JPEG, PNG and WebP are read with `struct`, GIF and BMP with Pillow's readers, and no pixel is
decoded. Pillow takes 35 us for the header of a CIFAR JPEG (this module: 6 us) and 400 us where
it has to look for the orientation, holds the GIL all the time, prints warnings about odd EXIF
blocks and inflates PNG text chunks, which may be bombs.
"""

import dataclasses
import io
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

from PIL import BmpImagePlugin, GifImagePlugin, Image

MAX_PIXELS = 2**27  # 134 million: 400 MB of RGB. The largest cameras make 100 to 150 million.

_MAX_SEGMENTS = 2**17  # JPEG segments or PNG chunks walked; more is an attack on our time.
_ORIENTATION_TAG = 0x0112
_JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15
_JPEG_BARE_MARKERS = frozenset([0x00, 0x01, *range(0xD0, 0xD9)])  # no length follows these
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # color type -> channels, without tRNS
_PNG_ALPHA = {1: 2, 2: 2, 3: 4, 4: 4}  # channels -> channels where there is a tRNS chunk


class UndecodableImage(ValueError):
    """The bytes are no image that we can read; the message is a reason of one line."""


class TooLargeImage(ValueError):
    """The header promises more than `MAX_PIXELS` pixels; the message is a reason of one line."""


@dataclasses.dataclass(frozen=True, slots=True)
class ImageHeader:
    """What can be known of an image without decoding it.

    Attributes:
      format: "JPEG", "PNG", "GIF", "BMP" or "WEBP", from the content.
      width: Pixels, after the EXIF orientation.
      height: Pixels, after the EXIF orientation.
      channels: Of the file, not of what is made of it. 1: grey, at any depth. 2: grey with
        alpha. 3: RGB, or a palette. 4: RGBA, a palette with transparency, or CMYK. A PNG's tRNS
        chunk counts as alpha. A GIF has a palette, also where all its colors are grey; a BMP
        whose palette is a grey ramp is grey.
      orientation: EXIF tag 0x0112, 1 to 8; 1 where it is absent, unreadable or out of range.
    """

    format: str
    width: int
    height: int
    channels: int
    orientation: int


class _Stored(NamedTuple):
    """A header as the file has it: width and height before the orientation."""

    width: int
    height: int
    channels: int
    orientation: int = 1


def read_header(data: bytes) -> ImageHeader:
    """Reads the header of a JPEG, PNG, GIF, BMP or WebP file.

    Args:
      data: The encoded file, whole: a PNG may have its EXIF block at the end.

    Returns:
      The header. That the pixels can be decoded is not checked.

    Raises:
      UndecodableImage: data is none of these, or its header is broken.
      TooLargeImage: More than `MAX_PIXELS` pixels.
    """
    name, read = _reader(data)
    try:
        stored = read(data)
    except (UndecodableImage, TooLargeImage):
        raise
    except (struct.error, IndexError, EOFError) as error:
        raise UndecodableImage(f"the {name} header is cut short") from error
    except Exception as error:  # Pillow raises what it likes for hostile bytes.
        raise UndecodableImage(f"broken {name} header: {one_line(error)}") from error
    width, height, channels, orientation = stored
    if width < 1 or height < 1:
        raise UndecodableImage(f"the {name} header says {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise TooLargeImage(f"{width} x {height} pixels, but the limit is {MAX_PIXELS} in all")
    if orientation >= 5:
        width, height = height, width
    return ImageHeader(name, width, height, channels, orientation)


def one_line(error: BaseException) -> str:
    """Returns an exception's message without line breaks, at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _reader(data: bytes) -> tuple[str, Callable[[bytes], _Stored]]:
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG", _read_jpeg
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG", _read_png
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF", _read_gif
    if data[:2] == b"BM":
        return "BMP", _read_bmp
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP", _read_webp
    raise UndecodableImage("no JPEG, PNG, GIF, BMP or WebP header" if data else "empty file")


def _read_jpeg(data: bytes) -> _Stored:
    """Walks the segments up to the first scan: an EXIF block may also follow the size."""
    size, orientation, position = None, 0, 2
    for _ in range(_MAX_SEGMENTS):
        if data[position] != 0xFF:  # Like libjpeg, steps over stray bytes.
            position = data.find(b"\xff", position)
            if position < 0:
                break
        while data[position] == 0xFF:  # Any number of fill bytes may stand before a marker.
            position += 1
        marker = data[position]
        position += 1
        if marker in _JPEG_BARE_MARKERS:
            continue
        if marker in (0xD9, 0xDA):  # end of image, start of scan
            break
        length = data[position] << 8 | data[position + 1]
        if marker in _JPEG_SIZE_MARKERS:
            size = struct.unpack_from(">BHHB", data, position + 2)
        elif marker == 0xE1 and not orientation and data[position + 2 : position + 8] == _EXIF:
            orientation = exif_orientation(data[position + 2 : position + length])
        position += length
    if size is None:
        raise UndecodableImage("a JPEG without a frame header before its first scan")
    precision, height, width, components = size
    if precision != 8 or components not in (1, 3, 4):
        raise UndecodableImage(f"a JPEG of {components} components of {precision} bits")
    return _Stored(width, height, components, orientation or 1)


def _read_png(data: bytes) -> _Stored:
    length, kind, width, height, depth, color, *_, crc = struct.unpack_from(">I4sIIBBBBBI", data, 8)
    if (length, kind) != (13, b"IHDR") or zlib.crc32(data[12:29]) != crc:
        raise UndecodableImage("a PNG whose IHDR chunk is missing or has a wrong checksum")
    if color not in _PNG_CHANNELS or depth not in (1, 2, 4, 8, 16):
        raise UndecodableImage(f"a PNG of color type {color} and {depth} bits")
    channels, orientation = _PNG_CHANNELS[color], 1
    has_exif = b"eXIf" in data  # It may follow the pixels, but is rare: walk that far only for it.
    position = 33
    for _ in range(_MAX_SEGMENTS):
        kind = data[position + 4 : position + 8]
        if len(kind) < 4 or kind == b"IEND" or (kind == b"IDAT" and not has_exif):
            break
        (length,) = struct.unpack_from(">I", data, position)
        if kind == b"tRNS":
            channels = _PNG_ALPHA[channels]
        elif kind == b"eXIf":
            orientation = exif_orientation(data[position + 8 : position + 8 + length])
        position += 12 + length
    return _Stored(width, height, channels, orientation)


def _read_webp(data: bytes) -> _Stored:
    kind = data[12:16]
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return _Stored(width & 0x3FFF, height & 0x3FFF, 3)
    if kind == b"VP8L" and data[20:21] == b"\x2f":
        (bits,) = struct.unpack_from("<I", data, 21)
        return _Stored((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 4 if bits >> 28 & 1 else 3)
    if kind != b"VP8X":
        raise UndecodableImage("a WebP without a VP8, VP8L or VP8X header")
    flags, wide, high = struct.unpack_from("<B3x3s3s", data, 20)
    width, height = (1 + int.from_bytes(side, "little") for side in (wide, high))
    orientation = _webp_orientation(data) if flags & 0x08 else 1
    return _Stored(width, height, 4 if flags & 0x10 else 3, orientation)


def _webp_orientation(data: bytes) -> int:
    position = 30
    for _ in range(_MAX_SEGMENTS):
        if position + 8 > len(data):
            break
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            return exif_orientation(data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    return 1


def _read_gif(data: bytes) -> _Stored:
    """Goes up to the first frame: one that is larger than the screen enlarges the image."""
    if len(data) < 13:
        raise EOFError
    try:
        # The class itself: Image.open prints a warning from 89 million pixels on.
        image = GifImagePlugin.GifImageFile(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise TooLargeImage(one_line(error)) from error
    width, height = image.size
    return _Stored(width, height, 4 if "transparency" in image.info else 3)


def _read_bmp(data: bytes) -> _Stored:
    image = BmpImagePlugin.BmpImageFile(io.BytesIO(data))
    width, height = image.size
    return _Stored(width, height, {"1": 1, "L": 1, "RGBA": 4}.get(image.mode, 3))


_EXIF = b"Exif\0\0"


def exif_orientation(exif: bytes) -> int:
    """Returns the orientation of an EXIF block, with or without its "Exif" prefix: 1 to 8, else 1.

    Only the first directory is read, which is the one about the main image.
    """
    tiff = exif.removeprefix(_EXIF)
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for position in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, position)
            if tag == _ORIENTATION_TAG:
                layout = {1: "B", 3: "H", 4: "I"}[kind]  # BYTE and LONG are seen too.
                (value,) = struct.unpack_from(order + layout, tiff, position + 8)
                return value if 1 <= value <= 8 else 1
    except (struct.error, KeyError):
        return 1
    return 1
