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
from beam_jobs.hidden import hidden
from trainer import startup
from trainer.cli_models import printable

_SECONDS_ON_A_TERMINAL = 0.5
_SECONDS_IN_A_LOG = 10.0
_LEGACY_KERAS = "TF_USE_LEGACY_KERAS"
# TensorFlow, the old Keras and Beam import them where they are installed, for what we do not use.
_UNUSED = (
    "google.cloud.bigquery",
    "google.cloud.pubsub",
    "h5py",
    "jax",
    "pymongo",
    "scipy",
)


def import_run(*, is_alone: bool = True) -> ModuleType:
    """Imports `beam_jobs.run`: it takes seconds, and three more the plain way.

    Args:
      is_alone: Whether neither code of the user's nor an engine will run in this process: these may
        want all of TensorFlow and Beam, as tf.keras wants h5py for the weights of a model.
    """
    # Beam logs the traceback of an error that we explain in a line, and hints on our type hints;
    # its engines log all that goes well, and its threads print a traceback when an engine goes.
    logging.disable()
    threading.excepthook = lambda _: None
    with startup.fast_imports(), _without_keras(), hidden(*_UNUSED if is_alone else ()):
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


def run(
    spec: Spec, output: str, *, quiet: bool, runner: str = "local", **options: Any
) -> dict[str, Any]:
    """Runs a spec, shows how far it is, and returns the manifest."""
    beam_run = import_run(is_alone=runner == "local" and not spec.has_code)
    is_terminal = sys.stderr.isatty()
    show = None if quiet else _show_on_a_terminal if is_terminal else _show_in_a_log
    try:
        return beam_run.run(
            spec,
            output,
            runner=runner,
            show=show,
            seconds=_SECONDS_ON_A_TERMINAL if is_terminal else _SECONDS_IN_A_LOG,
            **options,
        )
    finally:
        if show is _show_on_a_terminal:
            sys.stderr.write("\r\033[K")


def describe(spec: Spec, output: str, **options: Any) -> str:
    """Returns the job that would be submitted, as JSON."""
    return import_run(is_alone=False).describe(spec, output, **options)


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
    named = [("", info.get("label", {}))]
    named += [(f" of {name}", label) for name, label in info.get("labels", {}).items()]
    for of, label in named:
        if classes := label.get("classes"):
            lines.append(_named("classes", f"{len(classes)}{of}: {_shortened(classes)}"))
    if "transform_from" in info:
        lines += _later(info)
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
    lines += [_named("note", text) for text in _notes_on_classes(info)]
    return "\n".join(map(printable, lines))


def _notes_on_classes(info: dict[str, Any]) -> list[str]:
    """Returns where a stratified split is not what its fractions say."""
    if not info["spec"]["split"].get("stratified"):
        return []
    notes = []
    if inexact := list(info["inexact_classes"]):
        text = "shares of a class are not exact where records with one key stay together"
        notes.append(f"{text}, or turned out broken: {_shortened(inexact)}")
    for split, entry in info["splits"].items():
        if absent := [name for name, count in entry["class_counts"].items() if not count]:
            notes.append(f"classes without a record in {split}: {_shortened(absent)}")
    return notes


def _later(info: dict[str, Any]) -> list[str]:
    """Returns whose transform was applied, and how much of the data that had never seen."""
    before = info["transform_from"]
    lines = [_named("transform", f"of {before['name']}")]
    for kind in ("out_of_range", "out_of_vocabulary"):
        found = {
            name: sum(feature[kind].values())
            for name, feature in info["features"].items()
            if kind in feature
        }
        if found:
            most = sorted((-count, name) for name, count in found.items() if count)
            told = [f"{name} {-count:,}" for count, name in most]
            text = _shortened(told) or "none"
            lines.append(_named("unseen", f"{kind.replace('_', ' ')}: {text}"))
    differ = [
        f"{name} {version} (here {info['versions'].get(name)})"
        for name, version in before["versions"].items()
        if info["versions"].get(name) != version
    ]
    if differ:
        lines.append(_named("note", f"the transform was made with {', '.join(differ)}"))
    return lines


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
    with startup.fast_imports(), _without_keras(), hidden(*_UNUSED):
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
