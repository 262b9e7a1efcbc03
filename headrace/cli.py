"""The command line. What is heavy is imported by the command that needs it."""

import argparse
import atexit
import logging
import math
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import headrace
from trainer import cli as trainer_cli
from trainer.cli_models import printable

_RUN_EPILOG = "Running the same command again after a stop goes on with what is finished."


def command() -> NoReturn:
    """Runs `headrace`, and ends the process.

    The interpreter's own end takes half a million objects apart first, which lasts a second.
    """
    status = main()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # Whoever read our output has had enough.
        pass
    except OSError as error:
        os.write(2, f"headrace: {error}\n".encode())
        status = 1
    os._exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
      0 if it is done, 1 if the data or the job failed, 2 if the call or the spec is wrong, 130 if
      it was interrupted, 143 if a training was told to end.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    ours = words[: words.index("--")] if "--" in words else words
    parser = _parser()
    args = parser.parse_args(ours)
    args.beam_args = words[len(ours) + 1 :]
    if args.beam_args and args.handler is not _run:
        parser.error(f"only run takes flags after --, but these came: {' '.join(args.beam_args)}")
    try:
        return args.handler(args)
    except KeyboardInterrupt as interrupt:
        what = f"interrupted, {interrupt}" if str(interrupt) else "interrupted"
        goes_on = args.command in ("run", "train")
        rest = "; run the same command again to go on." if goes_on else "."
        print(f"headrace: {what}{rest}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # Whoever read our output has had enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if args.traceback:
            raise
        return _explain(error)


def _explain(error: Exception) -> int:
    """Prints what went wrong, and returns the exit status."""
    from beam_jobs.errors import DataError, SpecError
    from trainer.errors import DatasetError, UsageError

    # Beam says behind the message in which of its stages it came up.
    message = re.sub(r" \[while running '.*'\]", "", str(error))
    if isinstance(error, (SpecError, UsageError)):
        print(f"headrace: {message}", file=sys.stderr)
        return 2
    if isinstance(error, (DataError, DatasetError, OSError)):
        print(f"headrace: {message}", file=sys.stderr)
        return 1
    first = message.strip().splitlines()[0] if message.strip() else ""
    print(
        f"headrace: {type(error).__name__}: {first} This was not foreseen: run again with "
        "--traceback before the command, and report it.",
        file=sys.stderr,
    )
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headrace",
        description="Raw CSV and images to sharded TFRecords with exact statistics, and on to a "
        "trained Keras model.",
    )
    parser.add_argument("--version", action="version", version=f"headrace {headrace.__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_run(commands)
    _add_verify(commands)
    _add_inspect(commands)
    trainer_cli.add_commands(commands)
    _add_predict(commands)
    return parser


def _add_demo(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "demo",
        help="the whole way on data that ships with scikit-learn, no network",
        description="Writes scikit-learn's digits as PNG files and its breast cancer table as "
        "CSV, some of both broken on purpose; then runs, verifies, trains and evaluates.",
    )
    parser.add_argument(
        "--output", metavar="DIR", default="headrace-demo", help="folder (default headrace-demo)"
    )
    parser.add_argument("--quiet", action="store_true", help="print only the results")
    parser.set_defaults(handler=_demo)


def _add_run(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "run",
        help="turn raw files into a dataset folder, as a spec says",
        description="Reads the files that a spec names, computes the statistics of train, and "
        "writes sharded TFRecords.",
        epilog=_RUN_EPILOG,
        usage="%(prog)s [options] SPEC --output DIR [-- FLAGS FOR BEAM]",
    )
    parser.add_argument("spec", metavar="SPEC", help="a TOML file")
    parser.add_argument("--output", metavar="DIR", required=True, help="the dataset folder")
    parser.add_argument(
        "--runner",
        default="local",
        metavar="NAME",
        help="local (the default), or a runner of Beam: flink, dataflow, spark, prism, ...",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="threads of a worker (default: one a core; on Dataflow 1)",
    )
    for name, metavar in (("project", "ID"), ("region", "NAME"), ("temp-location", "gs://...")):
        parser.add_argument(f"--{name}", metavar=metavar, help="for Dataflow, as after --")
    parser.add_argument(
        "--temp-dir",
        metavar="DIR",
        help="disk for the local runner's shuffle (default: in the output)",
    )
    parser.add_argument(
        "--block-mb", type=float, metavar="X", help="MB read at a time (default 16, or less)"
    )
    parser.add_argument(
        "--transform-from",
        metavar="DIR",
        help="apply the transform, classes and vocabularies of this dataset; learn nothing",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a dataset of another spec or input"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the job that would be submitted, and end"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.set_defaults(handler=_run)


def _add_verify(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "verify",
        help="check every file of a dataset against its manifest",
        description="Reads every shard, and statistics and vocabularies beside them, and checks "
        "sizes, checksums, counts and features against dataset_info.json. Exit status 1 if "
        "anything is wrong.",
    )
    parser.add_argument("directory", metavar="DIR", help="dataset folder made by `headrace run`")
    parser.add_argument("--quiet", action="store_true", help="print only what is wrong")
    parser.set_defaults(handler=_verify)


def _add_inspect(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "inspect",
        help="show records as text, and their images as PNG files",
        description="Shows the first records of a split as text; images become PNG files.",
    )
    parser.add_argument("directory", metavar="DIR", help="dataset folder made by `headrace run`")
    parser.add_argument("--split", default="train", help="split to look at (default train)")
    parser.add_argument("-n", type=int, default=5, metavar="N", help="records (default 5)")
    parser.add_argument(
        "--output", default="inspect", metavar="DIR", help="folder for images (default inspect)"
    )
    parser.set_defaults(handler=_inspect)


def _add_predict(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "predict",
        help="apply a trained model to raw CSV rows or image files",
        description="Writes a line for each CSV row or image: the prediction, or the reason why "
        "there is none. The input is read as `headrace run` reads it; filters play no part, and "
        "the label's column may be absent.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder made by `train`")
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="CSV files; or images and folders of them"
    )
    parser.add_argument("--output", metavar="FILE", help="file to write (default stdout)")
    parser.add_argument(
        "--format", choices=("json", "csv"), default="json", help="of a line (default json)"
    )
    parser.add_argument(
        "--probabilities", action="store_true", help="also write the probability of each class"
    )
    parser.add_argument(
        "--dataset",
        metavar="DIR",
        help="the dataset, where the folder of the model keeps nothing of it",
    )
    parser.add_argument("--quiet", action="store_true", help="print no counts on stderr")
    parser.set_defaults(handler=_predict)


def _demo(args: argparse.Namespace) -> int:
    from headrace import demo

    return demo.demo(args.output, quiet=args.quiet)


def _run(args: argparse.Namespace) -> int:
    from beam_jobs.config import load_spec
    from beam_jobs.errors import SpecError
    from headrace import console

    if args.workers is not None and args.workers < 1:
        raise SpecError(f"--workers must be at least 1, but is {args.workers}.")
    if args.block_mb is not None and not 0 < args.block_mb < math.inf:
        raise SpecError(f"--block-mb must be finite and above 0, but is {args.block_mb}.")
    cloud = {"project": args.project, "region": args.region, "temp_location": args.temp_location}
    beam_args = [f"--{name}={value}" for name, value in cloud.items() if value is not None]
    # Before anything heavy: mistakes are answered at once.
    spec = load_spec(args.spec, learns=args.transform_from is None)
    job = {
        "runner": args.runner,
        "beam_args": [*beam_args, *args.beam_args],
        "num_threads": args.workers,
        "transform_from": args.transform_from,
        "block_mb": args.block_mb,
    }
    if args.dry_run:
        print(console.describe(spec, args.output, **job))
        return 0
    info = console.run(
        spec,
        args.output,
        temp_dir=args.temp_dir,
        overwrite=args.overwrite,
        quiet=args.quiet,
        **job,
    )
    if not args.quiet:
        written = "The job is written as a template; a service starts it."
        print(console.summary(info, args.output) if info else written)
    return 0


def _verify(args: argparse.Namespace) -> int:
    from headrace import console

    problems = console.verify(args.directory, quiet=args.quiet)
    return 1 if problems else 0


def _inspect(args: argparse.Namespace) -> int:
    from beam_jobs import inspection

    logging.disable()  # As for a run: an object store's errors are explained in a line.
    for block in inspection.inspect(args.directory, args.split, args.n, args.output):
        print(block)
    return 0


def _predict(args: argparse.Namespace) -> int:
    from trainer import startup

    logging.disable()  # As for a run: an object store's errors are explained in a line.
    os.environ["KERAS_BACKEND"] = "tensorflow"  # transform_fn is TensorFlow's.
    with startup.fast_imports():
        startup.import_tensorflow()
        from headrace import predict
    counts = predict.predict(
        args.model,
        args.files,
        args.output,
        style=args.format,
        probabilities=args.probabilities,
        directory=args.dataset,
    )
    if not args.quiet:
        others = {reason: count for reason, count in counts.items() if reason != "predicted"}
        told = ", ".join(f"{reason} {count:,}" for reason, count in sorted(others.items()))
        left = f"; {sum(others.values()):,} not: {told}" if others else ""
        print(printable(f"{counts['predicted']:,} predicted{left}"), file=sys.stderr)
    return 0 if counts["predicted"] else 1
