"""What Flink itself says of a job, and is told, over its REST API.

Beam's job server knows a job's counters only when it has ended, and cannot cancel it.
"""

import base64
import json
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping
from typing import Any

from apache_beam.coders import VarIntCoder

_ANSWER_SECONDS = 10
_CANCEL_SECONDS = 60
_ENDS = ("CANCELED", "FAILED", "FINISHED")
_SUM = "beam:metric:user:sum_int64:v1"


def cancel(master: str, job_name: str) -> str:
    """Cancels a job and waits for it.

    Args:
      master: Address of the cluster.
      job_name: Of the job.

    Returns:
      What became of it.
    """
    end = time.monotonic() + _CANCEL_SECONDS
    while time.monotonic() < end:
        jobs = _jobs(master, job_name)
        running = [job for job in jobs if job["state"] not in _ENDS]
        if not running:
            return "the job is canceled" if jobs else "the job had not started"
        for job in running:
            url = f"{_url(master)}/jobs/{job['jid']}?mode=cancel"
            patch = urllib.request.Request(url, method="PATCH")
            urllib.request.urlopen(patch, timeout=_ANSWER_SECONDS).close()
        time.sleep(1)
    return f"but the job is still running at {master}"


def progress(master: str, job_name: str, namespace: str) -> tuple[str, Mapping[str, int]]:
    """Returns how far a job is: in words, and what its tasks have counted until they finished."""
    jobs = _jobs(master, job_name)
    if not jobs:
        return "submitting", {}
    job = max(jobs, key=lambda job: job["start-time"])
    tasks = job["tasks"]
    found = _get(master, f"/jobs/{job['jid']}/accumulators")["user-task-accumulators"]
    counts: Counter[str] = Counter()
    for accumulator in found:
        if accumulator["name"] == "__metricscontainers":  # Beam's: JSON of all its metrics.
            for metric in json.loads(accumulator["value"])["metrics"].get("attempted", []):
                labels = metric["labels"]
                if metric["urn"] == _SUM and labels["NAMESPACE"] == namespace:
                    number = VarIntCoder().decode(base64.b64decode(metric["payload"]))
                    counts[labels["NAME"]] += number
    return f"{job['state']}, {tasks['finished']} of {tasks['total']} tasks", counts


def _jobs(master: str, job_name: str) -> list[dict[str, Any]]:
    """Returns all jobs of a name; a restarted one keeps its entry."""
    return [job for job in _get(master, "/jobs/overview")["jobs"] if job["name"] == job_name]


def _get(master: str, path: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{_url(master)}{path}", timeout=_ANSWER_SECONDS) as answer:
        return json.load(answer)


def _url(master: str) -> str:
    return master if "://" in master else f"http://{master}"
