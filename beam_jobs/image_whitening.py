"""ZCA whitening, with the same bits whoever computes them, and in whatever order.

y = (x - mean) @ W, where W = U diag(sqrt(n) / (s + epsilon)) U^T has the singular vectors U and
values s of the n centered images, as keras' ImageDataGenerator has it. Pixels are whole numbers: so
is their Gram matrix, and float64 holds its sums exactly, in any order. W is rounded to so many bits
that the products with pixels, too, add up without rounding; what is left is one subtraction and one
cast. So NumPy, TensorFlow, and any number of threads agree.
"""

from collections.abc import Iterable

import numpy as np
import threadpoolctl

_EXACT_BITS = 53  # Of float64: whole numbers below 2**53 are added exactly.
_LARGEST_PIXEL = 255


def sums_of_products(
    batches: Iterable[np.ndarray], num_values: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the sum of x x^T over all images x, the sum of x, and the number of images.

    Args:
      batches: uint8 (num_images, num_values) each; together at most 2**37 images.
      num_values: Of an image.

    Returns:
      Whole numbers, float64 (num_values, num_values) and (num_values,).
    """
    products, sums, count = np.zeros((num_values, num_values)), np.zeros(num_values), 0
    for batch in batches:
        x = batch.astype(np.float64)
        products += x.T @ x
        sums += x.sum(axis=0)
        count += len(batch)
    return products, sums, count


def affine(
    products: np.ndarray,
    sums: np.ndarray,
    count: int,
    mean: np.ndarray,
    scale: np.ndarray,
    epsilon: float,
) -> np.ndarray:
    """Returns what whitens pixels: y = x @ affine[:-1] - affine[-1], see `whitened`.

    Directions in which the images of train do not differ at all become 0: there is nothing to
    whiten, and sqrt(n) / epsilon would make noise of it.

    Args:
      products: Of train, as `sums_of_products` returns them. They are overwritten.
      sums: The same of x.
      count: Images of train.
      mean: What is subtracted of pixels: float64 (num_values,).
      scale: What the difference is multiplied with: float64 (num_values,).
      epsilon: Added to singular values.

    Returns:
      float64 (num_values + 1, num_values).
    """
    # Less a whole number near the mean the sums stay exact; the rest, below 1, costs few bits.
    shift = np.rint(mean)
    products -= np.outer(shift, sums)
    sums = sums - count * shift
    products -= np.outer(sums, shift)
    rest = mean - shift
    products -= np.outer(rest, sums)
    products -= np.outer(sums - count * rest, rest)
    products *= scale[:, None]
    products *= scale
    with threadpoolctl.threadpool_limits(1):  # With more, the last bits depend on their number.
        variances, vectors = np.linalg.eigh(products)
    size = len(mean)
    noise = variances[-1] * size * np.finfo(np.float64).eps
    seen = variances > max(noise, 0.0)
    gains = np.zeros(size)
    gains[seen] = np.sqrt(count) / (np.sqrt(variances[seen]) + epsilon)
    with threadpoolctl.threadpool_limits(1):
        matrix = rounded(scale[:, None] * ((vectors * gains) @ vectors.T))
        return np.concatenate([matrix, (mean @ matrix)[None, :]])


def rounded(matrix: np.ndarray) -> np.ndarray:
    """Rounds each column so that its products with pixels add up exactly in float64.

    Args:
      matrix: float64 (num_values, num_columns).
    """
    largest = _LARGEST_PIXEL * np.abs(matrix).sum(axis=0)
    _, exponents = np.frexp(np.where(largest == 0, 1.0, largest))
    bits = _EXACT_BITS - 1 - exponents.astype(np.int64)  # One more for what rounding adds.
    return np.ldexp(np.rint(np.ldexp(matrix, bits)), -bits)


def whitened(pixels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Whitens images: float32 (num_images, num_values).

    Args:
      pixels: uint8 (num_images, num_values).
      affine: What `affine` returns.
    """
    return (pixels.astype(np.float64) @ affine[:-1] - affine[-1]).astype(np.float32)
