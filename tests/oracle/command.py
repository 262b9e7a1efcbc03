"""The command as users call it: a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_SECONDS = 600


def arguments(*words) -> dict:
    """What subprocess needs to run `headrace` with these words from the checkout, TF quiet."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "headrace", *map(str, words)]
    return {"args": command, "cwd": ROOT, "env": {**os.environ, **settings}}


def headrace(*words) -> subprocess.CompletedProcess:
    """Runs the command to its end; both streams come back as one text."""
    return subprocess.run(
        **arguments(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_SECONDS,
    )


def done(*words) -> str:
    """What the command prints, which must end with status 0."""
    ended = headrace(*words)
    assert ended.returncode == 0, ended.stdout
    return ended.stdout
