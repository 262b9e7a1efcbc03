"""The one way from an encoded image to pixels: decode, orientation, channels, crop or pad, resize.

Everything is TensorFlow ops, so that a saved model does at serving time what wrote the records;
what these ops get wrong (see `canonical`) is re-encoded for them first. A photograph of 500 x 375
pixels takes 3.4 ms of one core, most of it the antialiased resize; TensorFlow's threads and the
caller's run at once, because none of it holds the GIL.
"""

import dataclasses
import functools
import io
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from beam_jobs import png
from beam_jobs.errors import SpecError
from beam_jobs.image_headers import ImageHeader, UndecodableImage, one_line

METHODS = (
    "bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5", "gaussian", "mitchellcubic",
)  # fmt: skip
CROPS = ("none", "center")
STORES = ("raw", "jpeg", "png")
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


@dataclasses.dataclass(frozen=True)
class ImagePolicy:
    """What every image is turned into.

    Attributes:
      height: Of the result, in pixels; None: each image keeps its size.
      width: Of the result, in pixels; None with height.
      channels: 1 (grey: ITU-R 601 luma of the RGB pixels, Pillow's "L"), 3 (RGB: grey is
        repeated, alpha is dropped, not composited) or 4 (RGBA: 255 where there is no alpha).
      method: One of `METHODS`, as in tf.image.resize.
      antialias: As in tf.image.resize: also blur while making an image smaller.
      crop: "none" squeezes the whole image; "center" first cuts out the largest centered box
        that has the result's ratio.
      crop_size: Height and width of the centered box that is all that counts of an image; None
        takes all of it.
      pad_value: What fills an image up to the result's ratio before it is resized; None: nothing.
      store: "raw", or "jpeg" or "png" for a file of the result.
      quality: Of a JPEG, 1 to 100.

    Raises:
      SpecError: A value is not one of these.
    """

    height: int | None
    width: int | None
    channels: int = 3
    method: str = "bilinear"
    antialias: bool = True
    crop: str = "none"
    crop_size: tuple[int, int] | None = None
    pad_value: int | None = None
    store: str = "raw"
    quality: int = 95

    def __post_init__(self):
        """Checks every value."""
        if self.height is not None and (self.height < 1 or self.width < 1):
            raise SpecError(f"image size must be positive, but is {self.height} x {self.width}.")
        for name, value, allowed in (
            ("channels", self.channels, (1, 3, 4)),
            ("resize method", self.method, METHODS),
            ("crop", self.crop, CROPS),
            ("store", self.store, STORES),
        ):
            if value not in allowed:
                raise SpecError(f"image {name} must be one of {allowed}, but is {value!r}.")

    @property
    def shape(self) -> tuple[int | None, int | None, int]:
        """Of the result: height, width, channels."""
        return self.height, self.width, self.channels


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
        return png.stored(decode(data, header)[np.newaxis]).tobytes()
    except Exception as error:  # Pillow raises what it likes for hostile bytes.
        raise UndecodableImage(f"broken {header.format}: {reason(error)}") from error


def _decode_16_bit(data: bytes, header: ImageHeader) -> np.ndarray:
    """Decodes with TensorFlow: Pillow has no 16-bit RGB and clips 16-bit grey."""
    channels = header.channels if header.channels != 2 else 4  # The op does not know grey + alpha.
    with tf.device("/CPU:0"):
        pixels = tf.io.decode_png(data, channels, dtype=tf.uint16).numpy()
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _decode_with_pillow(data: bytes, header: ImageHeader) -> np.ndarray:
    mode = "RGB" if header.format == "JPEG" else _PILLOW_MODES[header.channels]
    with opened(data, header) as image:
        pixels = np.asarray(image.convert(mode))
    return pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels


def opened(data: bytes, header: ImageHeader) -> Any:
    """Returns a file as an image of Pillow's."""
    return _PILLOW_FILES[header.format](io.BytesIO(data))


def decode_and_resize(data: tf.Tensor, orientation: tf.Tensor, policy: ImagePolicy) -> tf.Tensor:
    """Decodes one image and gives it the policy's size and channels; a pure graph function.

    Where the image already has the size, the result is the decoder's output, bit for bit.

    Args:
      data: string scalar, a JPEG or PNG as `canonical` returns it.
      orientation: int64 scalar, 1 to 8, the EXIF tag.
      policy: The size, channels, crop and resize wanted.

    Returns:
      uint8 (height, width, channels). Running it raises InvalidArgumentError for broken data, and
      for an image that is smaller than `crop_size`.
    """
    return _resized(data, orientation, policy)[0]


def _resized(
    data: tf.Tensor, orientation: tf.Tensor, policy: ImagePolicy
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what `decode_and_resize` does, and whether these are just the decoded pixels."""
    with tf.device("/CPU:0"):  # The same bits with and without a GPU, here and when serving.
        image = _channels(_decode(data, policy.channels), policy.channels)
        image = tf.cond(orientation > 1, lambda: _upright(image, orientation), lambda: image)
        sizes = [tf.shape(image)[:2]]
        if policy.crop_size is not None:
            image = _crop_exactly(image, *policy.crop_size)
            sizes.append(tf.shape(image)[:2])
        if policy.crop == "center":
            image = _crop_center(image, policy)
        elif policy.pad_value is not None:
            image = _pad(image, policy)
        sizes.append(tf.shape(image)[:2])
        if policy.height is not None:
            wanted = tf.constant([policy.height, policy.width])
            is_right_size = tf.reduce_all(sizes[-1] == wanted)
            image = tf.cond(is_right_size, lambda: image, lambda: _resize(image, policy))
            sizes.append(wanted)
        is_as_decoded = (orientation <= 1) & tf.reduce_all(sizes[0] == tf.stack(sizes))
        return tf.ensure_shape(image, policy.shape), is_as_decoded


def decode_and_encode(
    data: tf.Tensor, orientation: tf.Tensor, policy: ImagePolicy
) -> tuple[tf.Tensor, tf.Tensor]:
    """Makes one image into the file that is stored; a pure graph function.

    A JPEG that is already what is wanted stays as it is, to the byte: to encode it once more would
    take away from it.

    Args:
      data: As for `decode_and_resize`.
      orientation: As for `decode_and_resize`.
      policy: The size, channels, crop, resize and file wanted.

    Returns:
      The file, string scalar, and the pixels that decoding it gives, uint8 (height, width,
      channels).
    """
    pixels, is_as_decoded = _resized(data, orientation, policy)
    with tf.device("/CPU:0"):
        if policy.store == "png":
            return tf.io.encode_png(pixels), pixels
        is_jpeg = tf.strings.substr(data, 0, 2) == b"\xff\xd8"

        def encoded() -> tuple[tf.Tensor, tf.Tensor]:
            format_ = "grayscale" if policy.channels == 1 else "rgb"
            file = tf.io.encode_jpeg(pixels, format_, policy.quality)
            return file, tf.ensure_shape(_decode_jpeg(file, policy.channels), policy.shape)

        def is_kept() -> tf.Tensor:
            components = tf.io.extract_jpeg_shape(data)[2]
            return (components == 1) | (components == policy.channels)  # Grey is repeated.

        is_kept_jpeg = tf.cond(is_jpeg & is_as_decoded, is_kept, lambda: False)
        return tf.cond(is_kept_jpeg, lambda: (tf.identity(data), pixels), encoded)


def _decode_jpeg(data: tf.Tensor, channels: int) -> tf.Tensor:
    # The op's default DCT is fast and up to 4 levels wrong.
    return tf.io.decode_jpeg(data, channels, dct_method="INTEGER_ACCURATE")


def _decode(data: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes to uint8 (h, w, 3), or with channels = 4 to uint8 (h, w, 4)."""

    def rgb():  # This op takes PNG, too.
        return _decode_jpeg(data, 3)

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


def _crop_exactly(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Cuts out a centered box, as keras.layers.CenterCrop does; offsets round down."""
    size = tf.shape(image)
    text = tf.strings.format(
        f"is {{}} pixels high and wide, but crop_size takes {height} x {width} out of it",
        size[:2],
    )
    is_there = (size[0] >= height) & (size[1] >= width)
    with tf.control_dependencies([tf.debugging.Assert(is_there, [text])]):
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return image[top : top + height, left : left + width]


def _pad(image: tf.Tensor, policy: ImagePolicy) -> tf.Tensor:
    """Fills an image up on both sides until it has the result's ratio; sides round down."""
    size = tf.shape(image, tf.int64)
    wanted_height = tf.maximum(size[0], size[1] * policy.height // policy.width)
    wanted_width = tf.maximum(size[1], size[0] * policy.width // policy.height)
    rows, columns = (wanted_height - size[0]) // 2, (wanted_width - size[1]) // 2
    paddings = tf.stack([[rows, rows], [columns, columns], tf.zeros([2], tf.int64)])
    return tf.pad(image, paddings, constant_values=policy.pad_value)


def _crop_center(image: tf.Tensor, policy: ImagePolicy) -> tf.Tensor:
    """Cuts out the largest centered box of ratio width : height; sides and offsets round down."""
    size = tf.shape(image, tf.int64)
    box_height = tf.maximum(tf.minimum(size[0], size[1] * policy.height // policy.width), 1)
    box_width = tf.maximum(tf.minimum(size[1], size[0] * policy.width // policy.height), 1)
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
def decode_batch(policy: ImagePolicy) -> Callable[..., Any]:
    """Returns the function that makes each file of a batch into what is stored.

    It is traced once in a process: TFT traces what it is given five times, 0.2 s each.

    Args:
      policy: The size, channels, crop, resize and file wanted.

    Returns:
      A graph function of data, string (num_images,), and orientation, int64 (num_images,): to
      uint8 (num_images, height, width, channels), or where files are stored to these, string
      (num_images,), their pixels one after the other, uint8 (num_pixels, channels), and where each
      image begins and the last one ends, int64 (num_images + 1,).
    """
    if policy.store == "raw":
        one: Callable[..., Any] = decode_and_resize
        result: Any = tf.TensorSpec(policy.shape, tf.uint8)
    else:
        one = _encoded
        flat = tf.RaggedTensorSpec([None, policy.channels], tf.uint8, ragged_rank=0)
        result = (tf.TensorSpec([], tf.string), flat)

    def decode(data: tf.Tensor, orientation: tf.Tensor) -> Any:
        made = tf.map_fn(
            lambda given: one(*given, policy),
            (data, orientation),
            fn_output_signature=result,
            parallel_iterations=10,  # 1 is slower by a quarter; 64 gains nothing and takes memory.
        )
        if policy.store == "raw":
            return made
        files, pixels = made
        return files, pixels.values, pixels.row_splits

    signature = [tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int64)]
    with tf.init_scope():  # It belongs to no graph that is being traced.
        function = tf.function(decode, input_signature=signature, autograph=False)
        return function.get_concrete_function()


def _encoded(
    data: tf.Tensor, orientation: tf.Tensor, policy: ImagePolicy
) -> tuple[tf.Tensor, tf.Tensor]:
    file, pixels = decode_and_encode(data, orientation, policy)
    return file, tf.reshape(pixels, [-1, policy.channels])


class DecodedImages(NamedTuple):
    """Images in the form in which they are stored, and what they look like.

    Attributes:
      stored: uint8 (num_images, height, width, channels), or files, object (num_images,).
      pixels: uint8 (num_images, height, width, channels); where images keep their own size, object
        (num_images,), each of them uint8 (num_pixels, channels).
    """

    stored: np.ndarray
    pixels: np.ndarray

    def where(self, mask: np.ndarray) -> "DecodedImages":
        """Returns some of them: bool (num_images,)."""
        stored = self.stored[mask]
        return DecodedImages(stored, stored if self.pixels is self.stored else self.pixels[mask])


class Decoder:
    """Decodes batches of files from any number of Python threads. Make it in `setup()`."""

    def __init__(self, policy: ImagePolicy, make: Callable[..., Any] | None = None):
        """Traces the graph, once; or takes another one, that makes arrays of files."""
        self.policy = policy
        self._decode_batch = make or decode_batch(policy)

    def decode(
        self, files: Sequence[bytes], orientations: Sequence[int]
    ) -> tuple[DecodedImages, dict[int, str]]:
        """Decodes files, and sets those aside that are broken.

        Args:
          files: num_files JPEG or PNG files as `canonical` returns them.
          orientations: num_files EXIF orientations, 1 to 8.

        Returns:
          The files that could be decoded, in their order, and for the position of each other file
          a reason of one line.
        """
        try:
            return self._decoded(files, orientations), {}
        except tf.errors.InvalidArgumentError:  # One is broken; the error does not say which.
            return self._decode_one_by_one(files, orientations)

    def _decode_one_by_one(self, files, orientations) -> tuple[DecodedImages, dict[int, str]]:
        decoded = [self._decoded([], [])]
        broken = {}
        for position, (file, orientation) in enumerate(zip(files, orientations, strict=True)):
            try:
                decoded.append(self._decoded([file], [orientation]))
            except tf.errors.InvalidArgumentError as error:
                broken[position] = reason(error)
        stored, pixels = zip(*decoded, strict=True)
        return DecodedImages(np.concatenate(stored), np.concatenate(pixels)), broken

    def _decoded(self, files: Sequence[bytes], orientations: Sequence[int]) -> DecodedImages:
        data = tf.constant(list(files), tf.string, [len(files)])
        made = self._decode_batch(data, tf.constant(orientations, tf.int64, [len(files)]))
        if self.policy.store == "raw":
            pixels = np.asarray(memoryview(made))  # `numpy()` would copy.
            return DecodedImages(pixels, pixels)
        stored, values, splits = (part.numpy() for part in made)
        if None not in self.policy.shape:
            return DecodedImages(stored, values.reshape(len(files), *self.policy.shape))
        pixels = np.empty(len(files), object)
        for position, (start, end) in enumerate(itertools.pairwise(splits.tolist())):
            pixels[position] = values[start:end]
        return DecodedImages(stored, pixels)


def reason(error: Exception) -> str:
    """Returns an exception's message without the names of graph nodes that TensorFlow adds."""
    if not isinstance(error, tf.errors.OpError):
        return one_line(error)
    paragraphs = str(error.message).split("\n\n")  # All but the last say where the graph was made.
    first, *others = paragraphs[-1].splitlines() or [""]
    if "root error(s) found" in first and others:
        first = re.sub(r"^\s*\(0\) \w+: ", "", others[0])
    text = re.sub(r"\{\{.*?\}\}|\[Op:.*?\]", "", first).strip()
    return text[:200] or type(error).__name__
