"""A job on its way: submitted, watched, canceled, and what is said when it fails."""

import concurrent.futures
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import Pipeline
from apache_beam.runners.runner import PipelineState

from beam_jobs import object_stores, progress
from beam_jobs.errors import DataError, SpecError
from beam_jobs.flink import FlinkJob

_ASK_SECONDS = 2.0  # A terminal wants a line more often than an engine wants to be asked.
_CANCEL_SECONDS = 60
_MAX_REASON_LENGTH = 300
# A message of ours, with its table of reasons if it has one.
_OURS = re.compile(
    r"\b(DataError|SpecError): ([^\n]*?(?:\n  \w+ +[\d,]+)*)(?: \[while running|\n|$)"
)


def run(
    graph: Pipeline, options: PipelineOptions, show: Callable[[str], None] | None, seconds: float
) -> bool:
    """Runs a pipeline, waits for it, and shows what its engine counts meanwhile.

    Args:
      graph: The pipeline.
      options: Its options.
      show: Takes a line; None for silence.
      seconds: Between two lines.

    Returns:
      Whether it ran: a template is only written, for a service that starts it later.

    Raises:
      DataError, SpecError: The job failed for a reason that we know.
      KeyboardInterrupt: Somebody had enough; it says what became of the job.
    """
    started, result = time.monotonic(), None
    job = _on_flink(options)
    try:
        result = _submitted(graph)
        if options.get_all_options().get("template_location"):
            return False
        waiting = _in_background(result.wait_until_finish)
        while not concurrent.futures.wait([waiting], max(seconds, _ASK_SECONDS)).done:
            if show:
                show(_line(result, job, time.monotonic() - started))
        waiting.result()
    except BaseException as error:
        if _is_interrupt(error):
            raise KeyboardInterrupt(_cancel(result, job)) from None
        where = "" if result is None else options.get_all_options()["runner"]
        raise told(error, where) from error
    if show:
        show(_line(result, job, time.monotonic() - started))
    return True


def _in_background(wait: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    """Waits in another thread: interrupted, Beam's own waiting hangs up before anybody cancels."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def work() -> None:
        try:
            future.set_result(wait())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()  # A process that ends waits for nobody.
    return future


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether it is Ctrl-C, of which Beam makes a RuntimeError inside a DoFn."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _submitted(graph: Pipeline) -> Any:
    """Returns Beam's result of a pipeline: finished on the local runner, else on its way.

    Ctrl-C stays ours: Beam's job server would take it to stop itself, with nobody left to cancel.
    """
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        return graph.run()
    finally:
        if is_main and handler is not None:  # One that is not Python's cannot be put back.
            signal.signal(signal.SIGINT, handler)


def _cancel(result: Any, job: FlinkJob | None) -> str:
    """Cancels a job, and returns what became of that; nothing for one that ran in this process."""
    try:
        if job:
            return job.cancel()
        if result is None:
            return ""
        result.cancel()
        # Dataflow takes its time; other engines answer when it is done.
        end = time.monotonic() + _CANCEL_SECONDS
        while str(result.state) == "CANCELLING" and time.monotonic() < end:
            time.sleep(1)
        if str(result.state) == "CANCELLING":
            return "the job is being canceled"
    except Exception as error:  # Each engine has its own: what matters is that it may still run.
        what = " ".join(str(error).split())[:200]
        return f"but the job could not be canceled ({what}): look after it at the engine"
    return "the job is canceled"


def _on_flink(options: PipelineOptions) -> FlinkJob | None:
    """Returns the job that is to come on a Flink cluster; None for another engine."""
    said = options.get_all_options()
    master, runner = said["flink_master"], str(said["runner"]).lower()
    is_there = "flink" in runner and not master.startswith("[")  # [auto], [local]: without one.
    return FlinkJob.coming(master, said["job_name"]) if is_there else None


def _line(result: Any, job: FlinkJob | None, seconds: float) -> str:
    """Returns what an engine says of a job: Flink before the end, and Beam of any that it has."""
    try:
        state = str(result.state)
        if job and state != PipelineState.DONE:
            return progress.engine_line(seconds, *job.progress(progress.NAMESPACE))
        if hasattr(result, "_metrics"):  # Portable runners keep an old answer.
            result._metrics = None
        found = result.metrics().query(MetricsFilter().with_namespace(progress.NAMESPACE))
        counts: Counter[str] = Counter()
        for counter in found["counters"]:  # One for each step that counts by this name.
            counts[counter.key.metric.name] += counter.result
        return progress.engine_line(seconds, state, counts)
    except Exception as error:  # Each engine has its own, and a job does not end for it.
        return progress.engine_line(seconds, f"no answer: {type(error).__name__}", {})


def told(error: BaseException, where: str = "") -> BaseException:
    """Returns what is wrong, of the pages that an engine makes of it, or the error as it is.

    Args:
      error: What Beam raised.
      where: The engine that had taken the job: then it is one line in any case.
    """
    kinds = {"DataError": DataError, "SpecError": SpecError}
    text = str(error)
    if found := _OURS.search(text):
        return kinds[found[1]](found[2])
    if found := re.match(r"Unable to fetch remote .* at (\S+): ", text):
        return SpecError(
            f"{found[1]}: cannot be fetched, and Beam needs it. deploy/README.md says what to give "
            "instead."
        )
    if isinstance(error, object_stores.ERRORS) and type(error).__module__ != "builtins":
        return DataError(f"{object_stores.fault(error)}. Run the same command again to go on.")
    if found := re.match(r"\w+Error: (\[Errno \d+\] .+?)( \[while running .*)?$", text):
        # Beam cannot make another OSError of one, and makes a RuntimeError.
        return DataError(f"{found[1]}. Mend that, and run the same command again to go on.")
    if where:
        causes = re.findall(
            r"^(?:Caused by: )?([\w.]*(?:Error|Exception)\b: .+)$", text, re.MULTILINE
        )
        reason = " ".join((causes[-1] if causes else text).split())[:_MAX_REASON_LENGTH]
        return DataError(f"the job failed on {where}: {reason.rstrip('.')}. Its logs say more.")
    return error
