"""`python -m trainer train ...` and `python -m trainer evaluate ...`."""

import argparse
import sys
from collections.abc import Sequence

from trainer import cli
from trainer.errors import DatasetError, UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns 0, 1 if the dataset or the training failed, 2 for a wrong call."""
    args = _parser().parse_args(argv)
    try:
        return args.handler(args)
    except (UsageError, DatasetError) as error:
        if args.traceback:
            raise
        print(f"headrace: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Trains Keras models on the dataset folders that `headrace run` writes.",
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    cli.add_commands(parser.add_subparsers(metavar="COMMAND", required=True))
    return parser


if __name__ == "__main__":
    sys.exit(main())
