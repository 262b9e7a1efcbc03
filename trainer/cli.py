"""The commands `train` and `evaluate`. TensorFlow is imported only when one of them runs."""

import argparse
import os
from typing import Any

from trainer import startup


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Adds `train` and `evaluate`; each sets `handler`, a function from args to an exit status."""
    _add_train(subparsers)
    _add_evaluate(subparsers)


def _add_train(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train a Keras model on a dataset folder",
        description="Trains a Keras model on the split train of a dataset folder. The model, the "
        "number of epochs and the batch size follow from the dataset unless they are given.",
    )
    parser.add_argument("directory", metavar="DIR", help="dataset folder made by `headrace run`")
    parser.add_argument(
        "--output",
        metavar="MODEL",
        required=True,
        help="folder for model.keras and history.json; made if need be",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="passes over train")
    parser.add_argument("--batch-size", type=int, metavar="N", help="examples a step")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="decides first weights, dropout and the order of examples (default 0)",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        metavar="X",
        help="the highest rate of the schedule: a rise, then a cosine decay",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="the same weights in every run on one machine; slower",
    )
    parser.add_argument(
        "--model",
        metavar="package.module:function",
        help="function from the dataset's DatasetInfo to a keras.Model, instead of the built-in "
        "choice by features",
    )
    parser.add_argument("--quiet", action="store_true", help="print only where the model is")
    parser.set_defaults(handler=_train)


def _add_evaluate(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="measure a trained model on a split of a dataset",
        description="Measures a model that `train` made on every example of a split, each "
        "exactly once.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder made by `train`")
    parser.add_argument("directory", metavar="DIR", help="dataset folder made by `headrace run`")
    parser.add_argument("--split", default="test", help="split to measure on (default test)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="examples a step")
    parser.add_argument("--quiet", action="store_true", help="print only the line of the result")
    parser.set_defaults(handler=_evaluate)


def _import_train() -> Any:
    with startup.fast_imports():
        startup.import_tensorflow()
        from trainer import train
    return train


def _train(args: argparse.Namespace) -> int:
    train = _import_train()
    train.train(
        args.directory,
        args.output,
        epochs=args.epochs,
        batch_size=args.batch_size,
        seed=args.seed,
        learning_rate=args.learning_rate,
        model=args.model,
        deterministic=args.deterministic,
        verbose=not args.quiet,
    )
    print(f"model: {os.path.join(args.output, 'model.keras')}")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    train = _import_train()
    result = train.evaluate(
        args.model,
        args.directory,
        args.split,
        batch_size=args.batch_size,
        verbose=not args.quiet,
    )
    num_examples = result.pop("num_examples")
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in result.items())
    print(f"{args.split}: {num_examples} examples, {metrics}")
    return 0
