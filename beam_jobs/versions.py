"""What a process runs on; a worker has to have what the launcher has.

The standard library alone, for a worker may lack the rest.
"""

import functools
import socket
import sys
from collections.abc import Mapping
from importlib import metadata

from beam_jobs.errors import SpecError

_PACKAGES = (
    *("headrace", "apache-beam", "tensorflow", "tensorflow-transform"),
    *("numpy", "pyarrow", "duckdb"),
)


@functools.cache
def versions() -> Mapping[str, str]:
    """Returns the versions on which the bytes of a dataset may depend."""
    found = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # Or run from a checkout that is not installed.
            found[package] = "unknown"
    return found


def check(launcher: Mapping[str, str]) -> None:
    """Raises a SpecError where this process is not made of what the launcher is made of.

    Code travels to a worker as bytes of one version of Python, by the names of one version of a
    package; some that differ would fail far from the cause, others write other bytes.

    Args:
      launcher: What `versions` returned there.
    """
    here = versions()
    differ = [name for name, version in launcher.items() if here.get(name) != version]
    if differ:
        ours = ", ".join(f"{name} {here.get(name, 'unknown')}" for name in differ)
        wanted = ", ".join(f"{name} {launcher[name]}" for name in differ)
        raise SpecError(
            f"workers on {socket.gethostname()}: must have the launcher's {wanted}, but have "
            f"{ours}. Install the same there, or name others in --environment_config."
        )
