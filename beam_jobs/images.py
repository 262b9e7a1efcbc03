"""The one way from an encoded image to pixels: decode, orientation, channels, crop, resize.

Everything is TensorFlow ops, so that a saved model does at serving time what wrote the records;
what these ops get wrong (see `canonical`) is re-encoded for them first. A photograph of 500 x 375
pixels takes 3.4 ms of one core, most of it the antialiased resize; TensorFlow's threads and the
caller's run at once, because none of it holds the GIL.
"""

import dataclasses
import functools
import io
import re
import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from beam_jobs.errors import SpecError
from beam_jobs.image_headers import ImageHeader, UndecodableImage, one_line

METHODS = (
    "bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5", "gaussian", "mitchellcubic",
)  # fmt: skip
CROPS = ("none", "center")
_MEANS = (
    "bilinear",
    "nearest",
    "area",
    "gaussian",
)  # Their weights are >= 0; the others overshoot.

# Their own constructors, not Image.open, which prints a warning from 89 million pixels on.
_PILLOW_FILES = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
_PILLOW_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_PNG_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> IHDR color type


@dataclasses.dataclass(frozen=True)
class ImagePolicy:
    """What every image is turned into.

    Attributes:
      height: Of the result, in pixels.
      width: Of the result, in pixels.
      channels: 1 (grey: ITU-R 601 luma of the RGB pixels, Pillow's "L"), 3 (RGB: grey is
        repeated, alpha is dropped, not composited) or 4 (RGBA: 255 where there is no alpha).
      method: One of `METHODS`, as in tf.image.resize.
      antialias: As in tf.image.resize: also blur while making an image smaller.
      crop: "none" squeezes the whole image; "center" first cuts out the largest centered box
        that has the result's ratio.

    Raises:
      SpecError: A value is not one of these.
    """

    height: int
    width: int
    channels: int = 3
    method: str = "bilinear"
    antialias: bool = True
    crop: str = "none"

    def __post_init__(self):
        """Checks every value."""
        if self.height < 1 or self.width < 1:
            raise SpecError(f"image size must be positive, but is {self.height} x {self.width}.")
        for name, value, allowed in (
            ("channels", self.channels, (1, 3, 4)),
            ("resize method", self.method, METHODS),
            ("crop", self.crop, CROPS),
        ):
            if value not in allowed:
                raise SpecError(f"image {name} must be one of {allowed}, but is {value!r}.")


def is_canonical(header: ImageHeader) -> bool:
    """Whether `canonical` leaves a file with this header alone, as far as the header tells."""
    return header.format == "JPEG" and header.channels < 4


def canonical(data: bytes, header: ImageHeader) -> bytes:
    """Returns the same pixels in a form that TensorFlow decodes right.

    Grey and RGB JPEG and 8-bit PNG (grey, RGB, palette, with and without alpha, interlaced) come
    back as they are. The rest becomes an uncompressed 8-bit PNG. TensorFlow refuses BMP and
    animated WebP or GIF here, fills transparent GIF pixels with black, shifts 16-bit PNG
    down to 8 bits, mixes up PNG of 1, 2 and 4 bits where 4 channels are asked for, and CMYK JPEG
    without Adobe's marker.

    16-bit samples become round(x / 257), so that 65535 is 255; a tie cannot occur. Of an animation
    the first frame counts. Alpha is kept as it is. The orientation is not applied.

    Args:
      data: The encoded file.
      header: What `read_header` said of it.

    Raises:
      UndecodableImage: The file had to be decoded here, and is broken.
    """
    if is_canonical(header):
        return data
    depth = data[24] if header.format == "PNG" else 8
    if header.format == "PNG" and depth == 8:
        return data
    try:
        decode = _decode_16_bit if depth == 16 else _decode_with_pillow
        return _stored_png(decode(data, header))
    except Exception as error:  # Pillow raises what it likes for hostile bytes.
        raise UndecodableImage(f"broken {header.format}: {_reason(error)}") from error


def _decode_16_bit(data: bytes, header: ImageHeader) -> np.ndarray:
    """Decodes with TensorFlow: Pillow has no 16-bit RGB and clips 16-bit grey."""
    channels = header.channels if header.channels != 2 else 4  # The op does not know grey + alpha.
    with tf.device("/CPU:0"):
        pixels = tf.io.decode_png(data, channels, dtype=tf.uint16).numpy()
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _decode_with_pillow(data: bytes, header: ImageHeader) -> np.ndarray:
    mode = "RGB" if header.format == "JPEG" else _PILLOW_MODES[header.channels]
    with _PILLOW_FILES[header.format](io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert(mode))
    return pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels


def _stored_png(pixels: np.ndarray) -> bytes:
    """Writes uint8 (height, width, channels) as a PNG without compression.

    It lives for milliseconds only, and this is ten times as fast as Pillow's compress_level=0.
    """
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # Filter type 0 before each row.
    rows[:, 1:] = pixels.reshape(height, -1)
    kind = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOR_TYPES[channels], 0, 0, 0)
    body = zlib.compress(rows.data, 0)
    chunks = [_png_chunk(b"IHDR", kind), _png_chunk(b"IDAT", body), _png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    crc = zlib.crc32(body, zlib.crc32(kind))
    return b"".join([struct.pack(">I", len(body)), kind, body, struct.pack(">I", crc)])


def decode_and_resize(data: tf.Tensor, orientation: tf.Tensor, policy: ImagePolicy) -> tf.Tensor:
    """Decodes one image and gives it the policy's size and channels; a pure graph function.

    Where the image already has the size, the result is the decoder's output, bit for bit.

    Args:
      data: string scalar, a JPEG or PNG as `canonical` returns it.
      orientation: int64 scalar, 1 to 8, the EXIF tag.
      policy: The size, channels, crop and resize wanted.

    Returns:
      uint8 (height, width, channels). Running it raises InvalidArgumentError for broken data.
    """
    with tf.device("/CPU:0"):  # The same bits with and without a GPU, here and when serving.
        image = _channels(_decode(data, policy.channels), policy.channels)
        image = tf.cond(orientation > 1, lambda: _upright(image, orientation), lambda: image)
        if policy.crop == "center":
            image = _crop_center(image, policy.height, policy.width)
        is_right_size = tf.reduce_all(tf.shape(image)[:2] == [policy.height, policy.width])
        image = tf.cond(is_right_size, lambda: image, lambda: _resize(image, policy))
        return tf.ensure_shape(image, [policy.height, policy.width, policy.channels])


def _decode(data: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes to uint8 (h, w, 3), or with channels = 4 to uint8 (h, w, 4)."""

    def rgb():  # This op takes PNG too. Its default DCT is fast and up to 4 levels wrong.
        return tf.io.decode_jpeg(data, 3, dct_method="INTEGER_ACCURATE")

    if channels < 4:
        return rgb()
    is_png = tf.strings.substr(data, 0, 4) == b"\x89PNG"
    return tf.cond(is_png, lambda: tf.io.decode_png(data, 4), lambda: _with_alpha(rgb()))


def _with_alpha(image: tf.Tensor) -> tf.Tensor:
    return tf.concat([image, tf.fill(tf.shape(image[:, :, :1]), tf.constant(255, tf.uint8))], 2)


def _channels(image: tf.Tensor, channels: int) -> tf.Tensor:
    """Turns RGB into grey where 1 channel is wanted, with the integer weights of Pillow's "L".

    The ops' own channels=1 will not do: it takes a JPEG's Y plane, up to 5 levels away where RGB
    clips, and truncates for PNG. Grey comes out of this as it went in.
    """
    if channels != 1:
        return image
    red, green, blue = tf.split(tf.cast(image, tf.int32), 3, axis=2)
    weighted = 19595 * red + 38470 * green + 7471 * blue  # 0.299, 0.587, 0.114 times 2^16
    return tf.cast(tf.bitwise.right_shift(weighted + 0x8000, 16), tf.uint8)


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Applies an EXIF orientation: 5 to 8 are 1 to 4 of the image mirrored at its diagonal."""

    def when(values: list[int], change: Callable[[tf.Tensor], tf.Tensor], image: tf.Tensor):
        is_one_of = tf.reduce_any(orientation == tf.constant(values, tf.int64))
        return tf.cond(is_one_of, lambda: change(image), lambda: image)

    image = when([5, 6, 7, 8], lambda image: tf.transpose(image, [1, 0, 2]), image)
    image = when([2, 3, 6, 7], lambda image: tf.reverse(image, [1]), image)
    return when([3, 4, 7, 8], lambda image: tf.reverse(image, [0]), image)


def _crop_center(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Cuts out the largest centered box of ratio width : height; sides and offsets round down."""
    size = tf.shape(image, tf.int64)
    box_height = tf.maximum(tf.minimum(size[0], size[1] * height // width), 1)
    box_width = tf.maximum(tf.minimum(size[1], size[0] * width // height), 1)
    top, left = (size[0] - box_height) // 2, (size[1] - box_width) // 2
    return image[top : top + box_height, left : left + box_width]


def _resize(image: tf.Tensor, policy: ImagePolicy) -> tf.Tensor:
    size = [policy.height, policy.width]
    resized = tf.image.resize(image, size, policy.method, antialias=policy.antialias)
    rounded = tf.round(tf.cast(resized, tf.float32))  # half to even
    if policy.method not in _MEANS:
        rounded = tf.clip_by_value(rounded, 0, 255)
    return tf.cast(rounded, tf.uint8)


@functools.lru_cache(maxsize=8)
def decode_batch(policy: ImagePolicy) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns the function that applies `decode_and_resize` to each image of a batch.

    It is traced once in a process: TFT traces what it is given five times, 0.2 s each.

    Args:
      policy: The size, channels, crop and resize wanted.

    Returns:
      A graph function of data, string (num_images,), and orientation, int64 (num_images,), to
      uint8 (num_images, height, width, channels).
    """
    shape = [policy.height, policy.width, policy.channels]

    def decode(data: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(
            lambda one: decode_and_resize(one[0], one[1], policy),
            (data, orientation),
            fn_output_signature=tf.TensorSpec(shape, tf.uint8),
            parallel_iterations=10,  # 1 is slower by a quarter; 64 gains nothing and takes memory.
        )

    signature = [tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int64)]
    with tf.init_scope():  # It belongs to no graph that is being traced.
        function = tf.function(decode, input_signature=signature, autograph=False)
        return function.get_concrete_function()


class Decoder:
    """Decodes batches of files from any number of Python threads. Make it in `setup()`."""

    def __init__(self, policy: ImagePolicy):
        """Traces the graph, once."""
        self.policy = policy
        self._decode_batch = decode_batch(policy)

    def decode(
        self, files: Sequence[bytes], orientations: Sequence[int]
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Decodes files, and sets those aside that are broken.

        Args:
          files: num_files JPEG or PNG files as `canonical` returns them.
          orientations: num_files EXIF orientations, 1 to 8.

        Returns:
          uint8 (num_decoded, height, width, channels), the files that could be decoded in their
          order, and for the position of each other file a reason of one line.
        """
        try:
            return self._pixels(files, orientations), {}
        except tf.errors.InvalidArgumentError:  # One is broken; the error does not say which.
            return self._decode_one_by_one(files, orientations)

    def _decode_one_by_one(self, files, orientations) -> tuple[np.ndarray, dict[int, str]]:
        decoded = [np.zeros((0, *self._shape), np.uint8)]
        broken = {}
        for position, (file, orientation) in enumerate(zip(files, orientations, strict=True)):
            try:
                decoded.append(self._pixels([file], [orientation]))
            except tf.errors.InvalidArgumentError as error:
                broken[position] = _reason(error)
        return np.concatenate(decoded), broken

    def _pixels(self, files: Sequence[bytes], orientations: Sequence[int]) -> np.ndarray:
        data = tf.constant(list(files), tf.string, [len(files)])
        pixels = self._decode_batch(data, tf.constant(orientations, tf.int64, [len(files)]))
        return np.asarray(memoryview(pixels))  # `numpy()` would copy.

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.policy.height, self.policy.width, self.policy.channels


def _reason(error: Exception) -> str:
    """Returns an exception's message without the names of graph nodes that TensorFlow adds."""
    if not isinstance(error, tf.errors.OpError):
        return one_line(error)
    paragraphs = str(error.message).split("\n\n")  # All but the last say where the graph was made.
    first, *others = paragraphs[-1].splitlines() or [""]
    if "root error(s) found" in first and others:
        first = re.sub(r"^\s*\(0\) \w+: ", "", others[0])
    text = re.sub(r"\{\{.*?\}\}|\[Op:.*?\]", "", first).strip()
    return text[:200] or type(error).__name__
