"""Starts a Python worker of a Beam runner that has no containers, such as Flink's.

`environment_type=PROCESS` starts one command for each worker, with `--id` and an address to ask for
the rest. This is that command: `script` writes it, since it may have no arguments of its own.

    python -m beam_jobs.worker_boot --script PATH       # writes the command
    python -m beam_jobs.worker_boot --id 1-1 --provision_endpoint localhost:40000
"""

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

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
    os.environ.update(_environment(options))
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


if __name__ == "__main__":
    main()
