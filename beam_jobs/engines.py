"""The name of a runner to Beam's options."""

import argparse
import functools
import hashlib
import itertools
import json
import re
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    TestOptions,
)
from apache_beam.pipeline import Pipeline
from apache_beam.runners import create_runner
from apache_beam.runners.worker.statesampler import StateSampler
from apache_beam.transforms import userstate

from beam_jobs import versions, worker_boot
from beam_jobs.errors import SpecError

LOCAL = "local"
# Beam's "DirectRunner" is a switch that may download another engine; this names the one that is
# in the package, in one process and one worker. More of them lose elements.
_LOCAL = ["--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1"]
_SAMPLING_MS = 5
_KEEP_WORKER_MS = 600_000
_PORTABLE = ("flink", "portable", "prism", "spark")
_SECRET = re.compile(r"secret|token|password|access_?key|connection_?string", re.IGNORECASE)
# What stands behind such a name in a text: NAME=value, or "NAME": "value" of JSON in JSON.
_SAID_SECRET = re.compile(
    rf"(\w*(?:{_SECRET.pattern})\w*[\\\"']*\s*[=:]\s*[\\\"']*)[^\s,}}\\\"']+", re.IGNORECASE
)


class _LauncherOptions(PipelineOptions):
    """What travels to the workers, to compare themselves with."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(f"--{worker_boot.VERSIONS_OPTION}", help=argparse.SUPPRESS)


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
    return runner.lower() in (LOCAL, "direct", "directrunner")


def short_name(runner: str) -> str:
    """Returns a runner's name as "flink" or "dataflow", however the user wrote it."""
    if is_local(runner):
        return LOCAL
    return type(create_runner(runner)).__name__.removesuffix("Runner").lower()


def threads(runner: str, wanted: int | None) -> int | None:
    """Returns how many threads a worker has; None for one for each core of its machine.

    Dataflow starts a worker for each core already.
    """
    return 1 if wanted is None and short_name(runner) == "dataflow" else wanted


def options(runner: str, args: Sequence[str] = ()) -> PipelineOptions:
    """Returns Beam's options for a runner.

    Args:
      runner: "local", or a runner that Beam knows.
      args: Flags that Beam takes as they are; they go before our own.

    Raises:
      SpecError: There is no such runner, or no such flag.
    """
    for before, arg in itertools.pairwise(["", *args]):
        if not arg.startswith("-") and (not before.startswith("-") or "=" in before):
            raise SpecError(f"{arg}: is no flag of Beam, which begin with --. Leave it out.")
    if is_local(runner):
        made = _Options([*_LOCAL, *args])
        known = _check_known(made)
        for name, value in _options_of(_LOCAL).items():
            if known[name] != value:
                raise SpecError(f"--{name}: is ours to set on the local runner. Leave it out.")
        return made
    try:
        create_runner(runner)
    except ValueError as error:
        raise SpecError(
            "--runner must be local, flink, dataflow, spark, prism or the class of a Beam runner, "
            f"but is {runner!r}."
        ) from error
    except (ImportError, AttributeError) as error:
        raise SpecError(f"--runner {runner}: {error}. Install what it needs.") from error
    ours = f"--{worker_boot.VERSIONS_OPTION}={json.dumps(versions.versions())}"
    made = PipelineOptions([f"--runner={runner}", *_defaults(runner, args), ours, *args])
    if short_name(runner) not in _PORTABLE:  # Whose job servers know more flags than Beam's Python.
        _check_known(made)
    cloud = made.view_as(GoogleCloudOptions)  # Where Beam keeps the name, whatever the engine.
    cloud.job_name = cloud.job_name or f"headrace-{uuid.uuid4().hex[:12]}"
    return made


def _check_known(made: PipelineOptions) -> dict[str, Any]:
    """Returns what options say; Beam itself only warns of a flag that is none of its own."""
    known, given = made.get_all_options(), made.get_all_options(retain_unknown_options=True)
    if unknown := sorted(set(given) - set(known)):
        raise SpecError(f"--{unknown[0]}: Beam has no such flag. Correct it, or leave it out.")
    return known


def _options_of(flags: Sequence[str]) -> dict[str, Any]:
    """Returns what flags of our own say, which the local runner's job depends on."""
    said = PipelineOptions([*flags]).get_all_options()
    names = ("runner", "direct_running_mode", "direct_num_workers", "direct_runner_bundle_repeat")
    return {name: said[name] for name in names}


def _defaults(runner: str, args: Sequence[str]) -> list[str]:
    """Returns where the workers of a portable runner run, unless the flags say it: as processes.

    Beam's own default are containers of an image without this package. On Spark it starts a worker
    for each step, which takes longer than most of them, unless it is told to keep one.
    """
    engine = short_name(runner)
    flags = [f"--environment_cache_millis={_KEEP_WORKER_MS}"] if engine == "spark" else []
    has_environment = any(arg.startswith("--environment_type") for arg in args)
    if has_environment or engine not in _PORTABLE:
        return flags
    whose = f"{sys.executable}\0{worker_boot.__file__}"
    name = f"worker-{hashlib.sha256(whose.encode()).hexdigest()[:8]}.sh"
    command = worker_boot.script(Path.home() / ".cache" / "headrace" / name)
    config = json.dumps({"command": str(command)})
    return [*flags, "--environment_type=PROCESS", f"--environment_config={config}"]


def described(graph: Pipeline, options: PipelineOptions) -> str:
    """Returns the job that `run` would submit, as JSON without secrets.

    For Dataflow it is the body of the request, but for the files that would be staged.
    """
    proto = graph.to_runner_api()
    steps = [step.full_label for root in graph.transforms_stack[:1] for step in root.parts]
    job = {name: value for name, value in options.get_all_options(drop_default=True).items()}
    if short_name(job["runner"]) == "dataflow":
        job = _request(graph)
    found = {"job": job, "steps": steps, "graph_bytes": proto.ByteSize()}
    return json.dumps(_without_secrets(found), indent=2)


def _request(graph: Pipeline) -> Any:
    """Returns what would be posted to Dataflow, built by Beam's own runner and client."""
    from apache_beam.runners.dataflow.internal import apiclient

    test_options = graph.options.view_as(TestOptions)
    test_options.dry_run = True
    job = graph.run().job
    test_options.dry_run = False
    job.proto.environment = apiclient.Environment(
        packages=[],
        options=graph.options,
        environment_version=apiclient._FNAPI_ENVIRONMENT_MAJOR_VERSION,
        proto_pipeline_staged_url=f"{job.google_cloud_options.staging_location}/pipeline.pb",
        proto_pipeline=job.proto_pipeline,
    ).proto
    request = json.loads(job.json())
    del request["environment"]["sdkPipelineOptions"]["display_data"]  # The options once more.
    return request


def _without_secrets(value: Any) -> Any:
    """Returns a JSON value without what unlocks something, such as the keys of S3."""
    if isinstance(value, dict):
        return {
            name: "..." if _SECRET.search(name) and said else _without_secrets(said)
            for name, said in value.items()
        }
    if isinstance(value, list):
        return [*map(_without_secrets, value)]
    return _SAID_SECRET.sub(r"\1...", value) if isinstance(value, str) else value


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
