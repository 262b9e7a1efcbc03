"""What becomes of an image's pixels where the records hold floats: in NumPy, and in TF ops.

Both give the same bits, and so do any number of threads and what TensorFlow's optimizer makes of
the ops: all sums are of whole numbers, each product is exact, and each value is rounded by one
subtraction or one division in float64 and one cast to float32. What is stored as bfloat16 is that
float32 value, rounded once more.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from beam_jobs import chance, functions
from beam_jobs.config import Image
from beam_jobs.errors import SpecError

DTYPES = {
    "uint8": np.dtype(np.uint8),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(tf.bfloat16.as_numpy_dtype),
}
_FACTOR_BITS = 45  # With the 8 of a pixel 53, so that a product is exact.
_MIDDLE = 128


def per_pixel(image: Image, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Returns factor and offset of each position: y = x * factor - offset.

    Args:
      image: What the spec says of it.
      mean: Of x over train: float64, one a position.
      std: Of x over train, the same.

    Returns:
      float64 (2, *shape of mean).
    """
    rescale = np.float64(image.rescale)
    factor = np.full(mean.shape, rescale)
    if image.featurewise_std_normalization:  # A std of 0 divides by 1; else rescale cancels out.
        factor = np.where(std == 0, rescale, 1 / np.where(std == 0, 1, std))
    mantissas, exponents = np.frexp(factor)
    factor = np.ldexp(np.rint(np.ldexp(mantissas, _FACTOR_BITS)), exponents - _FACTOR_BITS)
    offset = mean * factor if image.featurewise_center else np.zeros(mean.shape)
    return np.stack([factor, offset])


def by_position(pixels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Normalizes each position with its own statistics: float32, in the shape of the pixels.

    Args:
      pixels: uint8 (num_images, height, width, channels).
      affine: What `per_pixel` returns.
    """
    values = pixels * affine[0]
    values -= affine[1]
    return values.astype(np.float32)


def samplewise(pixels: np.ndarray, image: Image) -> np.ndarray:
    """Normalizes each image with its own mean and std: float32, in the shape of the pixels.

    Args:
      pixels: uint8 (num_images, height, width, channels).
      image: What the spec says of it.
    """
    x = pixels.reshape(len(pixels), -1).astype(np.int64) - _MIDDLE
    size = x.shape[1]
    sums = x.sum(axis=1, keepdims=True)
    rescale = np.float64(image.rescale)
    if not image.samplewise_std_normalization:
        values = (size * x - sums).astype(np.float64) * (rescale / size)
    else:
        variance = size * (x * x).sum(axis=1, keepdims=True) - sums * sums  # Times size**2.
        is_constant = variance == 0
        root = np.sqrt(variance.astype(np.float64))
        if image.samplewise_center:
            values = (size * x - sums).astype(np.float64) / np.where(is_constant, 1.0, root)
        else:
            values = (size * (x + _MIDDLE)).astype(np.float64) / np.where(is_constant, size, root)
            values *= np.where(is_constant, rescale, 1.0)
    return values.astype(np.float32).reshape(pixels.shape)


def samplewise_op(pixels: tf.Tensor, image: Image) -> tf.Tensor:
    """Returns what `samplewise` does, of int64 pixels of a fixed size."""
    size = image.num_values
    x = tf.reshape(pixels, [-1, size]) - _MIDDLE
    sums = tf.reduce_sum(x, axis=1, keepdims=True)
    rescale = np.float64(image.rescale)
    if not image.samplewise_std_normalization:
        values = tf.cast(size * x - sums, tf.float64) * (rescale / size)
    else:
        variance = size * tf.reduce_sum(x * x, axis=1, keepdims=True) - sums * sums
        is_constant = variance == 0
        root = tf.sqrt(tf.cast(variance, tf.float64))
        if image.samplewise_center:
            one = tf.ones_like(root)
            values = tf.cast(size * x - sums, tf.float64) / tf.where(is_constant, one, root)
        else:
            divisor = tf.where(is_constant, tf.cast(size, tf.float64), root)
            values = tf.cast(size * (x + _MIDDLE), tf.float64) / divisor
            factor = tf.constant([rescale, 1.0], tf.float64)
            values *= tf.gather(factor, tf.cast(~is_constant, tf.int32))
    return tf.reshape(tf.cast(values, tf.float32), tf.shape(pixels))


def to_stored(values: np.ndarray, image: Image) -> np.ndarray:
    """Returns pixels or normalized values in the dtype and the order of the records.

    Args:
      values: uint8, float32 or bfloat16 (num_images, height, width, channels).
      image: What the spec says of it.
    """
    values = values.astype(DTYPES[image.store], copy=False)
    is_first = image.data_format == "channels_first"
    return np.moveaxis(values, 3, 1) if is_first else values


def to_stored_op(values: tf.Tensor, image: Image) -> tf.Tensor:
    """Returns what `to_stored` does; bfloat16 as the same numbers in float32, which TFT knows."""
    if image.store == "bfloat16":
        values = tf.cast(tf.cast(values, tf.bfloat16), tf.float32)
    return tf.transpose(values, [0, 3, 1, 2]) if image.data_format == "channels_first" else values


@functools.lru_cache(maxsize=8)
def function_batch(name: str, folder: str, shape: tuple[int, int, int]) -> Callable[..., Any]:
    """Returns a user's function for whole batches, traced once in a process.

    Args:
      name: `package.module:function`, from uint8 (height, width, channels) to float32 of that
        shape, in TensorFlow ops.
      folder: Where modules are found, too.
      shape: Height, width, channels.

    Returns:
      A graph function of uint8 (num_images, *shape) to float32 (num_images, *shape).

    Raises:
      SpecError: It cannot be imported or traced, or returns something else.
    """
    key = "preprocessing_function"
    function = functions.load(name, folder, key)

    graph_function = tf.function(function)  # `if` and `for` may be about tensors in there.

    def one(pixels: tf.Tensor) -> tf.Tensor:
        values = tf.convert_to_tensor(graph_function(pixels))
        if values.dtype != tf.float32 or not values.shape.is_compatible_with(shape):
            raise SpecError(
                f"{key}: {name} must return float32 {shape}, but returns {values.dtype.name} "
                f"{tuple(values.shape)}. Cast, and keep the shape."
            )
        return tf.ensure_shape(values, shape)

    def batch(pixels: tf.Tensor) -> tf.Tensor:
        result = tf.TensorSpec(shape, tf.float32)
        with tf.device("/CPU:0"):
            return tf.map_fn(one, pixels, fn_output_signature=result)

    try:
        with tf.init_scope():  # It belongs to no graph that is being traced.
            signature = [tf.TensorSpec([None, *shape], tf.uint8)]
            traced = tf.function(batch, input_signature=signature, autograph=False)
            made = traced.get_concrete_function()
    except SpecError:
        raise
    except (Exception, SystemExit) as error:  # A user's function may raise anything.
        raise SpecError(
            f"{key}: {name} cannot be traced by TensorFlow: {functions.said(error)}. It takes a "
            f"tensor, uint8 {shape}, and has to be made of TensorFlow ops."
        ) from error
    chance.refuse(made.graph.as_graph_def(), f"{key}: {name}")
    return made


def function_digest(made: Any) -> str:
    """Returns a sha256 over what a traced function computes, the same in any process.

    Names are left out, of nodes and of functions: they hold counters of the process.

    Args:
      made: What `function_batch` returns.
    """
    graph = made.graph.as_graph_def()
    bodies = {function.signature.name: function for function in graph.library.function}

    @functools.cache
    def of_function(name: str) -> str:
        body = bodies[name]
        arguments = [argument.name for argument in body.signature.input_arg]
        results = [body.ret[result.name] for result in body.signature.output_arg]
        return of_nodes(body.node_def, arguments, [*results, *sorted(body.control_ret.values())])

    def of_nodes(nodes: Any, arguments: Sequence[str], results: Sequence[str]) -> str:
        names = [*arguments, *(node.name for node in nodes)]
        places = {name: place for place, name in enumerate(names)}

        def edge(said: str) -> tuple[bool, int, str]:
            name, _, output = said.removeprefix("^").partition(":")
            return said.startswith("^"), places[name], output

        found: list[Any] = [len(arguments), *map(edge, results)]
        for node in nodes:
            op = of_function(node.op) if node.op in bodies else node.op
            found += [op, node.device, *map(edge, node.input)]
            for key in sorted(node.attr):
                if key != "config_proto" and (key == "_XlaMustCompile" or key[0] != "_"):
                    found += [key, of_value(node.attr[key])]
        return hashlib.sha256(repr(found).encode()).hexdigest()

    def of_value(value: Any) -> str:
        for function in [value.func] if value.HasField("func") else value.list.func:
            if function.name in bodies:
                function.name = of_function(function.name)
        return hashlib.sha256(value.SerializeToString(deterministic=True)).hexdigest()

    results = [tensor.name for tensor in made.outputs]
    found = hashlib.sha256(of_nodes(graph.node, [], results).encode())
    captured = [tensor for tensor in made.captured_inputs if tensor.dtype != tf.resource]
    for value in (*captured, *made.graph.variables):
        found.update(tf.io.serialize_tensor(value).numpy())
    return found.hexdigest()
