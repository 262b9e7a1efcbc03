"""Names that TensorFlow and Keras take for those of features."""

import contextlib
import re
import warnings
from collections.abc import Iterable, Iterator

# What Keras calls layers of our networks, and what these call their own.
_LAYER = re.compile(
    r"(add|batch_normalization|cast|clip|concatenate|conv[12]d|cos|dense|dropout|einsum|"
    r"einsum_dense|equal|erf|flatten|gaussian_noise|get_item|global_average_pooling2d|"
    r"global_max_pooling1d|greater|layer_normalization|max_pooling[12]d|mean|mod|multiply|"
    r"normalization|one_hot|permute|re_lu|rescaling|reshape|round|sin|spatial_dropout1d|sqrt|"
    r"square|subtract|tile|true_divide|where|zeros_like)(_[0-9]+)?|"
    r".*_(backbone|embedding|input|normalized|output)"
)


def identifiers(names: Iterable[str]) -> dict[str, str]:
    """Returns a name for each that tells it from the others: ASCII letters, digits, `_`.

    TensorFlow fails on others, or changes them, and takes `a` and `A` for one.
    """
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        safe = re.sub(r"[^0-9A-Za-z_]", "_", name)
        safe = safe if re.match(r"[A-Za-z]", safe) and safe != "self" else f"arg_{safe}"
        taken = {other.lower() for other in found.values()}
        unique, number = safe, 1
        while unique.lower() in taken:
            number += 1
            unique = f"{safe}_{number}"
        found[name] = unique
    return found


def of_input(name: str, identifier: str) -> str:
    """Returns what a model's input is called: as its feature, unless another layer may be so."""
    return f"{identifier}_input" if "/" in name or _LAYER.fullmatch(name) else name


def of_output(name: str | None) -> str | None:
    """Returns what the layer is called that gives one of several labels."""
    return f"{name}_output" if name and _LAYER.fullmatch(name) else name


@contextlib.contextmanager
def may_differ() -> Iterator[None]:
    """Has Keras take inputs that are not called as their features, without a word."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict", UserWarning)
        yield
