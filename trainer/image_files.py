"""Image files as they are, to what `transform_fn` takes of them: in TF ops, for a saved model.

TensorFlow has no op that reads EXIF, and its decoder cuts 16-bit PNG down to 8 bits. Both are made
up for here, exactly as the job did it that wrote the records; what else TensorFlow decodes in
another way than the job is an error, not other pixels.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

_MAX_STEPS = 2**14  # From segment to segment, or chunk; more is an attack on our time.
_ORIENTATION_TAG = 0x0112
_EXIF_APP1 = 0xE1
_LAST_MARKERS = [0xD9, 0xDA]  # End of image, start of scan.
_SIZE_MARKERS = sorted(set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC})  # SOF0 to SOF15
_BARE_MARKERS = [0x00, 0x01, *range(0xD0, 0xD9)]  # No length follows these.
_WINDOW = 16  # Bytes that are looked at together.
_STRETCH = 4096  # The same where there is no segment: a step must not cost the rest of the file.


def read_batch(files: tf.Tensor, channels: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns each file in a form that TensorFlow decodes right, and its EXIF orientation.

    Args:
      files: string (num_files,), JPEG or PNG files.
      channels: Of what is stored: 1, 3 or 4.

    Returns:
      string and int64, both (num_files,); orientations are 1 to 8. Running it raises
      InvalidArgumentError for a file that is neither grey or RGB JPEG nor PNG, and for a PNG of
      less than 8 bits where 4 channels are wanted, and for a file of very many segments.
    """
    with tf.device("/CPU:0"):
        return tf.map_fn(
            lambda file: _read(file, channels),
            files,
            fn_output_signature=(tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)),
            parallel_iterations=10,
        )


def _read(file: tf.Tensor, channels: int) -> tuple[tf.Tensor, tf.Tensor]:
    size = tf.cast(tf.strings.length(file), tf.int64)
    content = tf.pad(tf.io.decode_raw(file, tf.uint8), [[0, 2 * _WINDOW]])
    start = _window(content, _int64(0))
    is_jpeg, is_png = _is_at(start, 0, b"\xff\xd8\xff"), _is_at(start, 0, b"\x89PNG\r\n\x1a\n")
    check = tf.debugging.Assert(
        is_jpeg | is_png,
        ["must be a JPEG or PNG file; other formats have to be converted before"],
    )
    with tf.control_dependencies([check]):
        span = tf.cond(is_jpeg, lambda: _jpeg_exif(content, size), lambda: _png_exif(content, size))
        orientation = tf.cond(
            span[0] >= 0, lambda: _orientation(content[span[0] : span[1]]), lambda: _int64(1)
        )
        file = tf.cond(is_png, lambda: _png_of_8_bits(file, content, channels), lambda: file)
    return file, orientation


def _int64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.int64)


def _window(content: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """Returns the bytes from there on: int64 (_WINDOW,). Behind the end of the file they are 0."""
    return tf.cast(tf.slice(content, [position], [_WINDOW]), tf.int64)


def _is_at(window: tf.Tensor, place: int, wanted: bytes) -> tf.Tensor:
    return tf.reduce_all(window[place : place + len(wanted)] == list(wanted))


def _number(digits: tf.Tensor) -> tf.Tensor:
    """Returns the numbers whose bytes, the highest first, stand in the last dimension."""
    num_bytes = digits.shape[-1]
    weights = [256 ** (num_bytes - 1 - place) for place in range(num_bytes)]
    return tf.reduce_sum(digits * tf.constant(weights, tf.int64), axis=-1)


def _walk(size: tf.Tensor, start: int, step: Callable[..., tuple[tf.Tensor, ...]]) -> Any:
    """Goes from segment to segment until a step leads behind the end.

    Args:
      size: Of the file, int64.
      start: Where the first segment is.
      step: Takes and returns the position, where the EXIF block starts and ends, int64 (2,), and
        the number of color components, all as far as they are known.

    Returns:
      The EXIF block and the number of components. Running it raises InvalidArgumentError where
      the end is too many steps away.
    """
    _, position, span, components = tf.while_loop(
        lambda count, position, *_: (position < size) & (count < _MAX_STEPS),
        lambda count, *state: (count + 1, *step(*state)),
        (_int64(0), tf.minimum(_int64(start), size), tf.constant([-1, -1], tf.int64), _int64(0)),
    )
    check = tf.debugging.Assert(
        position >= size, [f"must have at most {_MAX_STEPS} segments, or chunks"]
    )
    with tf.control_dependencies([check]):
        return tf.identity(span), components


def _jpeg_exif(content: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Returns where the first EXIF block of a JPEG starts and ends: int64 (2,), -1 for none."""

    def step(position, span, components):
        window = _window(content, position)
        is_marker = (window[0] == 0xFF) & (window[1] != 0xFF)
        return tf.cond(
            is_marker,
            lambda: segment(position, window[1:], span, components),
            lambda: (position + _to_marker(content, position), span, components),
        )

    def segment(position, window, span, components):
        marker, after = window[0], position + 2
        end = after + _number(window[1:3])
        is_exif = (marker == _EXIF_APP1) & (span[0] < 0) & _is_at(window, 3, b"Exif\0\0")
        block = tf.stack([after + 2, tf.clip_by_value(end, after + 2, size)])
        is_size = tf.reduce_any(marker == _SIZE_MARKERS)
        following = tf.where(tf.reduce_any(marker == _BARE_MARKERS), after, end)
        following = tf.where(tf.reduce_any(marker == _LAST_MARKERS), size, following)
        return following, tf.where(is_exif, block, span), tf.where(is_size, window[8], components)

    span, components = _walk(size, 2, step)
    check = tf.debugging.Assert(components != 4, ["a CMYK JPEG has to be converted to RGB before"])
    with tf.control_dependencies([check]):
        return tf.identity(span)


def _to_marker(content: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """Returns how many stray or fill bytes, up to _STRETCH, to step over; libjpeg does so, too."""
    stretch = content[position : position + _STRETCH]
    is_fill = stretch[0] == 0xFF
    return tf.where(is_fill, _first(stretch != 0xFF) - 1, _first(stretch == 0xFF))


def _first(mask: tf.Tensor) -> tf.Tensor:
    """Returns where the first true is: int64; the length where none is."""
    return tf.argmax(tf.concat([mask, [True]], 0))


def _png_exif(content: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Returns where the last EXIF block of a PNG starts and ends: int64 (2,), -1 for none."""
    letters = [content[place : size + place] == letter for place, letter in enumerate(b"eXIf")]
    has_exif = tf.reduce_any(tf.reduce_all(letters, axis=0))  # It may follow the pixels.

    def step(position, span, components):
        window = _window(content, position)
        start = position + 8
        end = start + _number(window[:4])
        is_last = _is_at(window, 4, b"IEND") | (_is_at(window, 4, b"IDAT") & ~has_exif)
        span = tf.where(_is_at(window, 4, b"eXIf"), [start, tf.minimum(end, size)], span)
        return tf.where(is_last, size, end + 4), span, components

    return _walk(size, 33, step)[0]


def _orientation(block: tf.Tensor) -> tf.Tensor:
    """Returns the orientation that an EXIF block, uint8, tells in its first directory, or 1."""
    has_prefix = _is_at(tf.pad(tf.cast(block, tf.int64), [[0, _WINDOW]]), 0, b"Exif\0\0")
    tiff = block[tf.where(has_prefix, 6, 0) :]
    size = tf.size(tiff, tf.int64)
    padded = tf.cast(tf.pad(tiff, [[0, _WINDOW]]), tf.int64)
    is_little = _is_at(padded, 0, b"II")

    def number(at, num_bytes):
        """Returns the numbers that stand at places, int64, from 0 to size."""
        offsets = tf.range(num_bytes, dtype=tf.int64)
        digits = tf.gather(padded, tf.expand_dims(at, -1) + offsets)
        return tf.where(is_little, _number(tf.reverse(digits, [-1])), _number(digits))

    start = tf.minimum(number(_int64(4), 4), size)
    entries = start + 2 + 12 * tf.range(number(start, 2))
    entries = tf.boolean_mask(entries, entries + 4 <= size)
    entries = tf.boolean_mask(entries, number(entries, 2) == _ORIENTATION_TAG)
    entry = tf.concat([entries, [0]], 0)[0]
    is_kind = number(entry + 2, 2) == [1, 3, 4]  # BYTE, SHORT, LONG: each of them is seen.
    place = tf.minimum(entry + 8, size)
    value = tf.reduce_sum(tf.where(is_kind, [number(place, length) for length in (1, 2, 4)], 0))
    end = entry + 8 + tf.reduce_sum(tf.where(is_kind, tf.constant([1, 2, 4], tf.int64), 0))
    is_sound = (is_little | _is_at(padded, 0, b"MM")) & (size >= 8) & (tf.size(entries) > 0)
    is_sound &= tf.reduce_any(is_kind) & (end <= size) & (value >= 1) & (value <= 8)
    return tf.where(is_sound, value, 1)


def _png_of_8_bits(file: tf.Tensor, content: tf.Tensor, channels: int) -> tf.Tensor:
    """Returns a PNG whose 16-bit samples are round(x / 257); one of 8 bits or less as it is."""

    def rounded():
        samples = tf.io.decode_png(file, 4 if channels == 4 else 3, dtype=tf.uint16)
        samples = (tf.cast(samples, tf.int32) + 128) // 257
        return tf.io.encode_png(tf.cast(samples, tf.uint8), compression=0)

    depth = content[24]
    check = tf.debugging.Assert(
        (depth >= 8) | (channels < 4), ["a PNG of less than 8 bits has to be converted before"]
    )
    with tf.control_dependencies([check]):
        return tf.cond(depth == 16, rounded, lambda: tf.identity(file))
