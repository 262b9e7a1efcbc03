"""The name of a runner to Beam's options."""

import functools
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners import create_runner
from apache_beam.runners.worker.statesampler import StateSampler
from apache_beam.transforms import userstate

from beam_jobs import progress
from beam_jobs.errors import DataError, SpecError

LOCAL = "local"
# Beam's "DirectRunner" is a switch that may download another engine; this names the one that is
# in the package, in one process and one worker. More of them lose elements.
_LOCAL = ["--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1"]
_SAMPLING_MS = 5


class _Options(PipelineOptions):
    """Options that make each view of them once.

    Beam asks for one at every step of a graph, and parses all flags for it: a tenth of a second
    and more in a graph of a hundred steps.
    """

    def __init__(self, flags: list[str]):
        super().__init__(flags)
        self.__dict__["_views"] = {}

    def view_as(self, cls: type[Any]) -> Any:
        """Returns the options as a subclass of PipelineOptions; all views share their values."""
        if cls not in self._views:
            self._views[cls] = super().view_as(cls)
        return self._views[cls]


def is_local(runner: str) -> bool:
    """Whether a job runs in this process, with one disk for all of it."""
    return runner in (LOCAL, "DirectRunner")


def options(runner: str, args: Sequence[str] = ()) -> PipelineOptions:
    """Returns Beam's options for a runner.

    Args:
      runner: "local", or a runner that Beam knows.
      args: Flags that Beam takes as they are.

    Raises:
      SpecError: There is no such runner.
    """
    if is_local(runner):
        return _Options([*_LOCAL, *args])
    try:
        create_runner(runner)
    except ValueError as error:
        raise SpecError(
            "--runner must be local, flink, dataflow, spark, prism or the class of a Beam runner, "
            f"but is {runner!r}."
        ) from error
    except (ImportError, AttributeError) as error:
        raise SpecError(f"--runner {runner}: {error}. Install what it needs.") from error
    return PipelineOptions([f"--runner={runner}", *args])


@contextmanager
def quick_beam() -> Iterator[None]:
    """Inside it Beam does not do twice, nor wait for, what is the same: 0.3 s a job.

    It inspects all methods of a DoFn eight times. At the end of a bundle it waits for a thread
    that notes every 200 ms in which step it is, until that wakes up.
    """
    inspect, defaults = userstate.get_dofn_specs, StateSampler.__init__.__defaults__
    userstate.get_dofn_specs = functools.cache(inspect)
    StateSampler.__init__.__defaults__ = (_SAMPLING_MS,)
    try:
        yield
    finally:
        userstate.get_dofn_specs = inspect
        StateSampler.__init__.__defaults__ = defaults


def finish(result: Any, show: Callable[[str], None] | None, seconds: float) -> None:
    """Waits for a job that was submitted, and shows what its engine counts meanwhile.

    Args:
      result: Of `Pipeline.run`.
      show: Takes a line; None for silence.
      seconds: Between two lines.

    Raises:
      DataError: The job failed.
      KeyboardInterrupt: Somebody had enough; the job is canceled.
    """
    is_over, started = threading.Event(), time.monotonic()

    def loop() -> None:
        while show and not is_over.wait(seconds):
            show(progress.engine_line(time.monotonic() - started, result.state, _counters(result)))

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        result.wait_until_finish()
    except KeyboardInterrupt:
        result.cancel()
        if show:
            show("canceled the job.")
        raise
    except Exception as error:
        raise _told(error) from error
    finally:
        is_over.set()
        thread.join()


def _counters(result: Any) -> dict[str, int]:
    """Returns what `progress.report` has counted so far; portable runners keep an old answer."""
    if hasattr(result, "_metrics"):
        result._metrics = None
    found = result.metrics().query(MetricsFilter().with_namespace(progress.NAMESPACE))["counters"]
    return {counter.key.metric.name: counter.result for counter in found}


def _told(error: Exception) -> Exception:
    """Returns what a worker raised, of the pages that an engine makes of it."""
    kinds = {"DataError": DataError, "SpecError": SpecError}
    found = re.search(r"\b(DataError|SpecError): (.*?)(?: \[while running|\n|$)", str(error))
    return kinds[found[1]](found[2]) if found else error
