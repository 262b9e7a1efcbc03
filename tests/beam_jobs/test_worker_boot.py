"""The command that starts a worker, against a real provision service."""

import concurrent.futures
import json
import os
import subprocess
import sys

import grpc
from apache_beam.portability.api import (
    beam_provision_api_pb2 as provision,
)
from apache_beam.portability.api import (
    beam_provision_api_pb2_grpc,
    endpoints_pb2,
)
from google.protobuf import json_format, struct_pb2

from beam_jobs import worker_boot


class Service(beam_provision_api_pb2_grpc.ProvisionServiceServicer):
    """Answers a worker that names itself."""

    def GetProvisionInfo(self, request, context):
        assert dict(context.invocation_metadata())["worker_id"] == "1-1"
        options = json_format.ParseDict({"beam:option:job_name:v1": "a job"}, struct_pb2.Struct())
        return provision.GetProvisionInfoResponse(
            info=provision.ProvisionInfo(
                pipeline_options=options,
                runner_capabilities=["one", "two"],
                control_endpoint=endpoints_pb2.ApiServiceDescriptor(url="localhost:7"),
            )
        )


def test_the_variables_of_a_worker():
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    beam_provision_api_pb2_grpc.add_ProvisionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    # The id as Prism gives it, and an endpoint that the answer lacks.
    given = ["--id='1-1'", f"--provision_endpoint=localhost:{port}", "--logging_endpoint=x:8"]
    options = worker_boot._parser().parse_args(given)
    found = dict(worker_boot._environment(options))
    server.stop(None)
    assert json.loads(found.pop("PIPELINE_OPTIONS")) == {"beam:option:job_name:v1": "a job"}
    assert found == {
        "WORKER_ID": "1-1",
        "RUNNER_CAPABILITIES": "one two",
        "CONTROL_API_SERVICE_DESCRIPTOR": 'url: "localhost:7"\n',
        "LOGGING_API_SERVICE_DESCRIPTOR": 'url: "x:8"\n',
    }


def test_the_script_runs_this_python_from_anywhere(tmp_path):
    script = worker_boot.script(tmp_path / "a boot.sh")
    assert os.access(script, os.X_OK)
    assert sys.executable in script.read_text()
    done = subprocess.run([script, "--help"], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0 and "--provision_endpoint" in done.stdout, done.stderr
