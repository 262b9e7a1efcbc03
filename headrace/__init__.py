"""Raw data to a training loop: the command line and the public names."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beam_jobs.errors import DataError, SpecError
    from headrace.spec import Dataset, Spec

__version__ = "0.1.0"
__all__ = ["DataError", "Dataset", "Spec", "SpecError"]
_MODULES = {  # Imported by who uses them: the command shows its help in less time.
    "DataError": "beam_jobs.errors",
    "Dataset": "headrace.spec",
    "Spec": "headrace.spec",
    "SpecError": "beam_jobs.errors",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
