"""The name of a runner to Beam's options."""

from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.errors import SpecError

# Beam's "DirectRunner" is a switch that may download another engine; this names the one that is
# in the package, in one process and one worker. More of them lose elements.
_LOCAL = ["--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1"]


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
