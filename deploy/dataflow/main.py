"""The launcher of the Flex Template: its parameters become a call of `headrace run`.

The launcher runs this file with every parameter as `--name=value`, and with the flags of
Beam that the service chose: project, region, job name, locations, and `--template_location`, at
which the stock runner writes the job instead of submitting it.
"""

import argparse
import sys
from collections.abc import Sequence

from headrace import cli

_BEAM_PARAMETERS = ("sdk_container_image", "number_of_worker_harness_threads", "disk_size_gb")


def arguments(argv: Sequence[str]) -> list[str]:
    """Returns what `headrace` is called with; flags that are none of ours are Beam's."""
    args, beam_flags = _parser().parse_known_args(argv)
    command = ["run", args.spec, "--output", args.output, "--runner", "dataflow"]
    if args.overwrite == "true":
        command.append("--overwrite")
    for name in ("block_mb", "workers"):
        if value := getattr(args, name):
            command += [f"--{name.replace('_', '-')}", value]
    for name in _BEAM_PARAMETERS:
        if value := getattr(args, name):
            beam_flags.append(f"--{name}={value}")
    # The workers' image is this one, so Beam is in it and need not be staged.
    return [*command, "--", *beam_flags, "--sdk_location=container"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)  # Else --work=... would be --workers.
    parser.add_argument("--spec", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--overwrite", choices=["", "false", "true"], default="false")
    parser.add_argument("--block_mb")
    parser.add_argument("--workers")
    parser.add_argument("--runner")  # The service says DataflowRunner, which is ours anyway.
    for name in _BEAM_PARAMETERS:
        parser.add_argument(f"--{name}")
    return parser


if __name__ == "__main__":
    sys.exit(cli.main(arguments(sys.argv[1:])))
