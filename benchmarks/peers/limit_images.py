"""The machine's limit for images: tf.data alone, with every core, and it keeps nothing.

    python -m benchmarks.peers.limit_images 'photos/**/*.JPEG' 224

The ops are the product's own: exact JPEG decoding, antialiased bilinear resize, rounding to uint8.
Prints one line: images, images/s without imports. A size of 0 does not resize.
"""

import glob
import sys
import time
from typing import Any

import tensorflow as tf


def main(pattern: str, size_text: str) -> None:
    """Reads, decodes and resizes all files once."""
    size = int(size_text)

    def load(path: Any) -> Any:
        image = tf.io.decode_jpeg(tf.io.read_file(path), 3, dct_method="INTEGER_ACCURATE")
        if not size:
            return image
        resized = tf.image.resize(image, [size, size], antialias=True)
        return tf.cast(tf.round(resized), tf.uint8)

    paths = sorted(glob.glob(pattern, recursive=True))
    dataset = (
        tf.data.Dataset.from_tensor_slices(paths)
        .map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
        .prefetch(8)
    )
    start = time.perf_counter()
    count = sum(1 for _ in dataset)
    seconds = time.perf_counter() - start
    print(f"limit images: {count} images, {count / seconds:.1f} images/s")


if __name__ == "__main__":
    main(*sys.argv[1:])
