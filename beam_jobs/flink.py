"""What Flink itself says of a job, and is told, over its REST API.

Beam's job server knows a job's counters only when it has ended, and cannot cancel it.
"""

import base64
import dataclasses
import json
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping
from typing import Any

from apache_beam.coders import VarIntCoder

_ANSWER_SECONDS = 10
_CANCEL_SECONDS = 60
_ENDS = {
    "CANCELED": "the job is canceled",
    "FAILED": "the job had failed",
    "FINISHED": "the job had finished",
}
_SUM = "beam:metric:user:sum_int64:v1"


@dataclasses.dataclass(frozen=True)
class FlinkJob:
    """A job on a cluster.

    Attributes:
      master: Address of the cluster.
      name: Of the job.
      others: Ids of the jobs of that name that were there before.
    """

    master: str
    name: str
    others: frozenset[str] = frozenset()

    @classmethod
    def coming(cls, master: str, name: str) -> "FlinkJob":
        """Returns a job that is to be submitted, by a job server that may reach more than we do."""
        try:
            found = cls(master, name)._found()
        except OSError:
            found = []
        return cls(master, name, frozenset(job["jid"] for job in found))

    def cancel(self) -> str:
        """Cancels the job and waits for that; returns what became of it."""
        end = time.monotonic() + _CANCEL_SECONDS
        while time.monotonic() < end:
            jobs = self._found()
            running = [job for job in jobs if job["state"] not in _ENDS]
            if not running:
                return _ENDS[jobs[-1]["state"]] if jobs else "the job had not started"
            for job in running:
                url = f"{_url(self.master)}/jobs/{job['jid']}?mode=cancel"
                patch = urllib.request.Request(url, method="PATCH")
                urllib.request.urlopen(patch, timeout=_ANSWER_SECONDS).close()
            time.sleep(1)
        return f"but the job is still running at {self.master}"

    def progress(self, namespace: str) -> tuple[str, Mapping[str, int]]:
        """Returns how far the job is: in words, and what tasks counted until they finished."""
        jobs = self._found()
        if not jobs:
            return "submitting", {}
        job, tasks = jobs[-1], jobs[-1]["tasks"]
        path = f"/jobs/{job['jid']}/accumulators"
        counts: Counter[str] = Counter()
        for accumulator in get(self.master, path)["user-task-accumulators"]:
            if accumulator["name"] == "__metricscontainers":  # Beam's: JSON of all its metrics.
                for metric in json.loads(accumulator["value"])["metrics"].get("attempted", []):
                    labels = metric["labels"]
                    if metric["urn"] == _SUM and labels["NAMESPACE"] == namespace:
                        number = VarIntCoder().decode(base64.b64decode(metric["payload"]))
                        counts[labels["NAME"]] += number
        return f"{job['state']}, {tasks['finished']} of {tasks['total']} tasks", counts

    def _found(self) -> list[dict[str, Any]]:
        """Returns the job, and others of its name that came later: the newest last."""
        jobs = get(self.master, "/jobs/overview")["jobs"]
        ours = [job for job in jobs if job["name"] == self.name and job["jid"] not in self.others]
        return sorted(ours, key=lambda job: job["start-time"])


def get(master: str, path: str) -> dict[str, Any]:
    """Returns what a cluster answers.

    Raises:
      OSError, ValueError: It does not, or that is no Flink.
    """
    with urllib.request.urlopen(f"{_url(master)}{path}", timeout=_ANSWER_SECONDS) as answer:
        return json.load(answer)


def _url(master: str) -> str:
    return master if "://" in master else f"http://{master}"
