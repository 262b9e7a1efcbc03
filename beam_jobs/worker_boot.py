"""Starts a Python worker of a Beam runner that has no containers, such as Flink's.

`environment_type=PROCESS` starts one command for each worker, with `--id` and an address to ask for
the rest. This is that command: `script` writes it, since it may have no arguments of its own.

    python -m beam_jobs.worker_boot --script PATH       # writes the command
    python -m beam_jobs.worker_boot --id 1-1 --provision_endpoint localhost:40000
"""

import argparse
import contextlib
import json
import os
import queue
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from beam_jobs import versions
from beam_jobs.errors import SpecError

VERSIONS_OPTION = "launcher_versions"
_ANSWER_SECONDS = 60
_PACKAGE_ROOT = Path(__file__).resolve().parent.parent


def script(path: Path) -> Path:
    """Writes an executable that starts a worker with this Python and this package.

    Args:
      path: Where; the workers' machines must have it, and this Python, at the same place.

    Returns:
      The absolute path, the `command` of `--environment_config`.
    """
    root = shlex.quote(str(_PACKAGE_ROOT))
    lines = [
        "#!/bin/sh",
        # A TaskManager may have been started anywhere: a checkout is found by its path.
        f"PYTHONPATH={root}${{PYTHONPATH:+:$PYTHONPATH}} \\",
        f'exec {shlex.quote(sys.executable)} -m beam_jobs.worker_boot "$@"',
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")  # A shell may be reading the old one.
    temporary.write_text("\n".join(lines) + "\n")
    temporary.chmod(0o755)
    return temporary.replace(path).resolve()


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the script, or asks what to do and works until the runner hangs up."""
    options = _parser().parse_known_args(arguments)[0]
    if options.script:
        print(script(options.script))
        return
    # Beam's worker pool never reads what a worker prints: after 64 KiB it would stand still.
    sys.stdout.flush()
    os.dup2(2, 1)
    environment = dict(_environment(options))
    try:
        _check_versions(environment)
    except SpecError as error:
        _refuse(environment, f"SpecError: {error}")
        return
    os.environ.update(environment)
    # In this process: a second start of Python would import Beam again, and options may be longer
    # than what can be handed over to one.
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main([])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="worker_boot", description=(__doc__ or "").split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--script", type=Path, metavar="PATH", help="write the command and end")
    # Prism puts the id in quotes, as for a shell that is not there.
    what.add_argument(
        "--id",
        type=lambda text: text.strip("'"),
        help="of the worker; the runner gives this and what follows",
    )
    parser.add_argument("--provision_endpoint", default="")
    parser.add_argument("--logging_endpoint")
    parser.add_argument("--control_endpoint")
    parser.add_argument("--semi_persist_dir")
    return parser


def _environment(options: argparse.Namespace) -> Mapping[str, str]:
    """Returns the variables that Beam's `sdk_worker_main` reads, from what the runner answers."""
    import grpc  # type: ignore[import-untyped]
    from apache_beam.portability.api import (
        beam_provision_api_pb2,
        beam_provision_api_pb2_grpc,
        endpoints_pb2,
    )
    from google.protobuf import json_format, text_format

    with grpc.insecure_channel(options.provision_endpoint) as channel:
        service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        info = service.GetProvisionInfo(
            beam_provision_api_pb2.GetProvisionInfoRequest(),
            metadata=[("worker_id", options.id)],
            timeout=_ANSWER_SECONDS,
            wait_for_ready=True,
        ).info

    def descriptor(told: str | None, answered: endpoints_pb2.ApiServiceDescriptor) -> str:
        """What the answer says goes before the command line, as in Beam's own containers."""
        if not answered.url:
            answered = endpoints_pb2.ApiServiceDescriptor(url=told or "")
        return text_format.MessageToString(answered)

    found = {
        "WORKER_ID": options.id,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
        "CONTROL_API_SERVICE_DESCRIPTOR": descriptor(
            options.control_endpoint, info.control_endpoint
        ),
        "LOGGING_API_SERVICE_DESCRIPTOR": descriptor(
            options.logging_endpoint, info.logging_endpoint
        ),
    }
    if info.status_endpoint.url:
        found["STATUS_API_SERVICE_DESCRIPTOR"] = text_format.MessageToString(info.status_endpoint)
    if options.semi_persist_dir:
        found["SEMI_PERSISTENT_DIRECTORY"] = options.semi_persist_dir
    return found


def _check_versions(environment: dict[str, str]) -> None:
    """Compares with what the launcher says in Beam's options, from which it is taken."""
    options = json.loads(environment["PIPELINE_OPTIONS"])
    launcher = options.pop(f"beam:option:{VERSIONS_OPTION}:v1", None)
    environment["PIPELINE_OPTIONS"] = json.dumps(options)
    if launcher:  # A pipeline that is none of ours says nothing.
        versions.check(json.loads(launcher))


def _refuse(environment: Mapping[str, str], why: str) -> None:
    """Answers whatever the runner wants of this worker with an error: a job fails with its words.

    What a worker prints instead, some runners show nowhere.
    """
    import grpc
    from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, endpoints_pb2
    from apache_beam.runners.worker.data_plane import GrpcClientDataChannelFactory
    from google.protobuf import text_format

    worker_id = environment["WORKER_ID"]
    control = endpoints_pb2.ApiServiceDescriptor()
    text_format.Parse(environment["CONTROL_API_SERVICE_DESCRIPTOR"], control)
    data = GrpcClientDataChannelFactory(worker_id=worker_id)
    answers: queue.SimpleQueue[beam_fn_api_pb2.InstructionResponse | None] = queue.SimpleQueue()
    with grpc.insecure_channel(control.url, [("grpc.max_receive_message_length", -1)]) as channel:
        service = beam_fn_api_pb2_grpc.BeamFnControlStub(channel)
        wishes = service.Control(iter(answers.get, None), metadata=[("worker_id", worker_id)])
        with contextlib.suppress(grpc.RpcError):  # The runner hangs up.
            for wish in wishes:
                # Flink waits for somebody to send data to before it looks at an answer.
                for port in _data_ports(service, wish, worker_id):
                    data.create_data_channel(port)
                answer = beam_fn_api_pb2.InstructionResponse(instruction_id=wish.instruction_id)
                answer.error = why
                answers.put(answer)
        answers.put(None)


def _data_ports(service: Any, wish: Any, worker_id: str) -> Iterator[Any]:
    """Yields where the data of a bundle comes from and goes to."""
    from apache_beam.portability.api import beam_fn_api_pb2
    from apache_beam.runners.worker import bundle_processor

    if wish.WhichOneof("request") != "process_bundle":
        return
    descriptor = service.GetProcessBundleDescriptor(
        beam_fn_api_pb2.GetProcessBundleDescriptorRequest(
            process_bundle_descriptor_id=wish.process_bundle.process_bundle_descriptor_id
        ),
        metadata=[("worker_id", worker_id)],
    )
    for transform in descriptor.transforms.values():
        if transform.spec.urn in (
            bundle_processor.DATA_INPUT_URN,
            bundle_processor.DATA_OUTPUT_URN,
        ):
            yield beam_fn_api_pb2.RemoteGrpcPort.FromString(transform.spec.payload)


if __name__ == "__main__":
    main()
