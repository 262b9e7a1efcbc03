"""`python -m trainer COMMAND ...`."""

import argparse
import os
import sys
from collections.abc import Sequence

from trainer import cli
from trainer.errors import DatasetError, UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
      0 if it is done, 1 if the dataset or the training failed, 2 for a wrong call, 130 if it was
      interrupted, 143 if it was told to end.
    """
    args = _parser().parse_args(argv)
    try:
        return args.handler(args)
    except KeyboardInterrupt as interrupt:
        what = f"interrupted, {interrupt}" if str(interrupt) else "interrupted"
        rest = "; run the same command again to go on." if args.command == "train" else "."
        print(f"headrace: {what}{rest}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # Whoever read our output has had enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UsageError, DatasetError, OSError) as error:
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
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    cli.add_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
