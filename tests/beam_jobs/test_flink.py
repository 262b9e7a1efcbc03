"""Which job Flink is asked about; a real one, tests/engines/test_cancel.py, test_progress.py."""

import http.server
import json
import socket
import threading

import pytest

from beam_jobs.flink import FlinkJob


@pytest.fixture
def jobs():
    """A list of jobs, served as Flink serves its own; whoever is canceled is."""
    found = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer({"jobs": found})

        def do_PATCH(self):
            for job in found:
                if self.path == f"/jobs/{job['jid']}?mode=cancel":
                    job["state"] = "CANCELED"
            self.answer({})

        def answer(self, body):
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("localhost", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found, f"localhost:{server.server_port}"
        server.shutdown()


def job(jid, state, name="nightly"):
    return {"jid": jid, "name": name, "state": state, "start-time": 1}


def test_only_our_job_is_canceled(jobs):
    found, master = jobs
    found += [job("before", "RUNNING")]
    ours = FlinkJob.coming(master, "nightly")
    assert ours.cancel() == "the job had not started"
    found += [job("ours", "RUNNING"), job("other", "RUNNING", "weekly")]
    assert ours.cancel() == "the job is canceled"
    assert [entry["state"] for entry in found] == ["RUNNING", "CANCELED", "RUNNING"]


@pytest.mark.parametrize(
    ("state", "said"), [("FINISHED", "the job had finished"), ("FAILED", "the job had failed")]
)
def test_a_job_that_has_ended_is_not_canceled(jobs, state, said):
    found, master = jobs
    ours = FlinkJob.coming(master, "nightly")
    found += [job("ours", state)]
    assert ours.cancel() == said


def test_a_cluster_that_only_the_job_server_reaches_is_no_error():
    with socket.create_server(("localhost", 0)) as server:
        nobody = f"localhost:{server.getsockname()[1]}"
    assert FlinkJob.coming(nobody, "nightly") == FlinkJob(nobody, "nightly")
