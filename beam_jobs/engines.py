"""The name of a runner to Beam's options."""

from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.errors import SpecError

# Beam's "DirectRunner" is a switch that may download another engine; this names the one that is
# in the package, in one process and one worker. More of them lose elements.
_LOCAL = ["--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1"]


def options(runner: str) -> PipelineOptions:
    """Returns the options of a runner.

    Raises:
      SpecError: The runner is not supported.
    """
    if runner not in ("local", "DirectRunner"):
        raise SpecError(f"--runner must be local, but is {runner!r}.")
    return PipelineOptions(_LOCAL)
