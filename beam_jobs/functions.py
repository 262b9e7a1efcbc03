"""Functions of the user's that a spec names as `package.module:function`."""

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

from beam_jobs.config import Spec
from beam_jobs.errors import SpecError


def load(name: str, folder: str, key: str) -> Callable[..., Any]:
    """Imports a function: code of the user's, which may do whatever that user may.

    Args:
      name: As the spec has it.
      folder: That of the spec: modules there are found, too.
      key: Of the spec, for messages.

    Raises:
      SpecError: The name is not package.module:function, cannot be imported, or is no function.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise SpecError(f"{key}: must be package.module:function, but is {name!r}.")
    if folder not in sys.path:
        sys.path.append(folder)  # Last: a random.py there is not the standard library's.
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (Exception, SystemExit) as error:  # A user's module may raise anything.
        raise SpecError(f"{key}: cannot import {name!r}: {said(error)}.") from error
    if not callable(function):
        raise SpecError(f"{key}: {name!r} is not a function.")
    return function


def check(spec: Spec) -> None:
    """Raises a SpecError unless this process can import what a spec names."""
    for key, name in spec.functions.items():
        load(name, spec.folder, key)


def source_digest(function: Callable[..., Any]) -> str:
    """Returns a sha256 over the source of a function's module; over its name where there is none.

    What that module imports is not in it.
    """
    name = f"{function.__module__}:{function.__qualname__}"
    try:
        name += "\n" + inspect.getsource(sys.modules[function.__module__])
    except (OSError, TypeError, KeyError):  # It is compiled.
        pass
    return hashlib.sha256(name.encode()).hexdigest()


def said(error: BaseException) -> str:
    """Returns an exception of a user's function in one line."""
    text = " ".join(str(error).split())[:500].rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
