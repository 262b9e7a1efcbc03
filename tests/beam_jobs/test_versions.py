"""What a process runs on, compared with what the launcher runs on."""

import importlib.metadata
import socket
import sys

import numpy as np
import pytest

from beam_jobs import versions
from beam_jobs.errors import SpecError


def test_the_versions_of_this_process():
    found = versions.versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:2]))
    assert found["numpy"] == np.__version__
    assert found["apache-beam"] == importlib.metadata.version("apache-beam")
    versions.check(found)


def test_what_differs_is_named():
    here = versions.versions()
    with pytest.raises(SpecError) as caught:
        versions.check({**here, "python": "3.2", "numpy": "0.1", "a-package": "7"})
    assert str(caught.value) == (
        f"workers on {socket.gethostname()}: must have the launcher's python 3.2, numpy 0.1, "
        f"a-package 7, but have python {here['python']}, numpy {np.__version__}, "
        "a-package unknown. Install the same there, or name others in --environment_config."
    )
