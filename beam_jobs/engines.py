"""The name of a runner to Beam's options."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.worker.statesampler import StateSampler
from apache_beam.transforms import userstate

from beam_jobs.errors import SpecError

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


def options(runner: str) -> PipelineOptions:
    """Returns the options of a runner.

    Raises:
      SpecError: The runner is not supported.
    """
    if runner not in ("local", "DirectRunner"):
        raise SpecError(f"--runner must be local, but is {runner!r}.")
    return _Options(_LOCAL)


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
