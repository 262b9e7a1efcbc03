"""What a job shows on the way and in the end."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from beam_jobs.config import Spec
from trainer import startup

_SECONDS_ON_A_TERMINAL = 0.5
_SECONDS_IN_A_LOG = 10.0
_LEGACY_KERAS = "TF_USE_LEGACY_KERAS"


def import_run() -> ModuleType:
    """Imports `beam_jobs.run`: it takes seconds, and two more the plain way."""
    # Beam logs the traceback of an error that we explain in a line, and hints on our type hints;
    # its engines log all that goes well, and its threads print a traceback when an engine goes.
    logging.disable()
    threading.excepthook = lambda _: None
    with startup.fast_imports(), _without_keras():
        startup.import_tensorflow()
        from beam_jobs import run
    return run


@contextmanager
def _without_keras() -> Iterator[None]:
    """TensorFlow imported inside it does not import Keras 3, and with it scikit-learn.

    TFT sets the same variable, only later, and for good: it wants the old Keras as tf.keras.
    """
    if _LEGACY_KERAS in os.environ:
        yield
        return
    os.environ[_LEGACY_KERAS] = "1"
    try:
        yield
    finally:
        del os.environ[_LEGACY_KERAS]


def run(spec: Spec, output: str, *, quiet: bool, **options: Any) -> dict[str, Any]:
    """Runs a spec, shows how far it is, and returns the manifest."""
    beam_run = import_run()
    is_terminal = sys.stderr.isatty()
    show = None if quiet else _show_on_a_terminal if is_terminal else _show_in_a_log
    try:
        return beam_run.run(
            spec,
            output,
            show=show,
            seconds=_SECONDS_ON_A_TERMINAL if is_terminal else _SECONDS_IN_A_LOG,
            **options,
        )
    finally:
        if show is _show_on_a_terminal:
            sys.stderr.write("\r\033[K")


def describe(spec: Spec, output: str, **options: Any) -> str:
    """Returns the job that would be submitted, as JSON."""
    return import_run().describe(spec, output, **options)


def _show_on_a_terminal(line: str) -> None:
    sys.stderr.write(f"\r\033[K{line}")
    sys.stderr.flush()


def _show_in_a_log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def summary(info: dict[str, Any], output: str) -> str:
    """Returns what was read, written and rejected, in a few lines."""
    written = {split: entry["num_examples"] for split, entry in info["splits"].items()}
    shards = [shard for entry in info["splits"].values() for shard in entry["shards"]]
    size = sum(shard["bytes"] for shard in shards)
    rejected = {reason: count for reason, count in info["rejected"].items() if count}
    lines = [
        f"{info['name']}: {info['read']:,} records read",
        _row("written", written),
        _row("rejected", rejected),
    ]
    classes = info.get("label", {}).get("classes")
    if classes:
        lines.append(_named("classes", f"{len(classes)}: {_shortened(classes)}"))
    lines.append(_named("shards", f"{len(shards)}, {size / 1e6:,.1f} MB in {output}"))
    longest = max((shard["num_examples"] for shard in shards), default=0)
    for split, entry in info["splits"].items():
        usual = entry["num_examples"] / len(entry["shards"])
        longest = max(shard["num_examples"] for shard in entry["shards"])
        if len(entry["shards"]) > 1 and longest > 4 * usual + 1000:
            text = (
                f"a shard of {split} has {longest:,} records, {longest / usual:.0f} times the mean"
            )
            lines.append(_named("note", f"{text}: some record is repeated very often"))
    return "\n".join(lines)


def _named(name: str, text: str) -> str:
    return f"  {name:9} {text}"


def _row(name: str, counts: dict[str, int]) -> str:
    parts = [f"{key} {count:,}" for key, count in counts.items()]
    return _named(name, f"{sum(counts.values()):,}" + (f": {', '.join(parts)}" if parts else ""))


def _shortened(names: list[str], limit: int = 10) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown}, ..."


def statistics(info: dict[str, Any]) -> str:
    """Returns a line for each feature that has statistics."""
    lines = []
    for name, feature in info["features"].items():
        found = feature.get("statistics")
        if found:
            lines.append(
                f"  {name:28} mean {_numbers(found['mean'])}  std {_numbers(found['std'])}"
            )
    return "\n".join(lines)


def _numbers(value: float | list[float]) -> str:
    values = value if isinstance(value, list) else [value]
    return " ".join(f"{number:<10.6g}" for number in values)


def verify(directory: str, *, quiet: bool) -> list[str]:
    """Checks a dataset, prints what is wrong, and returns it."""
    logging.disable()  # As for a run: an object store's errors are explained in a line.
    with startup.fast_imports(), _without_keras():
        startup.import_tensorflow()
        from beam_jobs.verify import verify as verify_dataset

    counted = [0, 0]
    problems = verify_dataset(directory, on_progress=_counting(counted))
    for line in problems:
        print(line)
    if not problems and not quiet:
        print(f"{directory}: sound: {counted[0]:,} examples, {counted[1] / 1e6:,.1f} MB")
    if problems and not quiet:
        print(f"{directory}: {len(problems)} problem{'s' if len(problems) > 1 else ''}")
    return problems


def _counting(counted: list[int]) -> Callable[[int, int], None]:
    def count(num_examples: int, num_bytes: int) -> None:
        counted[0] += num_examples
        counted[1] += num_bytes

    return count
