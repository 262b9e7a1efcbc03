"""Runs one job of the Dataflow stand-in: `python -m engines.dataflow_worker FOLDER`.

The folder holds `pipeline.pb`, whose environments are embedded already, and `options.json`, as the
service hands them to a worker's container. `metrics.json` is written there whenever a bundle is
done, and `error.txt` if the job failed.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics.monitoring_infos import consolidate
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.value_provider import RuntimeValueProvider
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiMetrics, FnApiRunner


class _Runner(FnApiRunner):
    """A runner that publishes the metrics of what is done, so that a running job can be asked."""

    def __init__(self, path: Path):
        super().__init__()
        self._path = path
        self._infos_by_stage: dict[str, list[Any]] = {}

    def _execute_bundle(self, context: Any, manager: Any, bundle: Any) -> Any:
        result = super()._execute_bundle(context, manager, bundle)
        stage = manager.stage.name
        before = self._infos_by_stage.get(stage, [])
        infos = [*before, *result.process_bundle.monitoring_infos]
        self._infos_by_stage[stage] = list(consolidate(infos))
        self.publish()
        return result

    def publish(self) -> None:
        metrics = FnApiMetrics(self._infos_by_stage).query()
        text = json.dumps(
            [_plain(metric) for metric in metrics["counters"] + metrics["distributions"]]
        )
        partial = self._path.with_suffix(".partial")
        partial.write_text(text)
        os.replace(partial, self._path)  # The service reads it at any time.


def _plain(metric: Any) -> dict[str, Any]:
    key, value = metric.key, metric.committed
    name = {"step": key.step, "namespace": key.metric.namespace, "name": key.metric.name}
    if isinstance(value, int):
        return {**name, "scalar": value}
    parts = {"count": value.count, "sum": value.sum, "min": value.min, "max": value.max}
    return {**name, "distribution": parts}


def main(folder: Path) -> int:
    """Runs the job; returns the exit status."""
    options_by_name = json.loads((folder / "options.json").read_text())
    options = PipelineOptions.from_dictionary(options_by_name)
    RuntimeValueProvider.set_runtime_options(options_by_name)  # As Beam's sdk_worker_main does.
    FileSystems.set_options(options)
    pipeline = beam_runner_api_pb2.Pipeline.FromString((folder / "pipeline.pb").read_bytes())
    try:
        _Runner(folder / "metrics.json").run_via_runner_api(pipeline, options)
    except BaseException:
        (folder / "error.txt").write_text(traceback.format_exc())
        return 1
    return 0


if __name__ == "__main__":
    os._exit(main(Path(sys.argv[1])))  # Beam's threads would keep a failed job alive.
