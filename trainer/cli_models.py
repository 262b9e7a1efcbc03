"""The commands about a trained model. TensorFlow is imported only when one of them runs."""

import argparse
import json
import os
from typing import Any

from trainer import startup
from trainer.errors import UsageError

_MOST_CLASSES = 50  # A table of more is no longer read; it stands in --json and --output.


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Adds `evaluate` and `export`; each sets `handler`, as those of `trainer.cli` do."""
    _add_evaluate(subparsers)
    _add_export(subparsers)


def printable(text: str) -> str:
    """Returns text for a terminal: whatever a name from the data holds, escapes do nothing."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _add_evaluate(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="measure a trained model on splits of a dataset",
        description="Measures a model that `train` made on every example of a split, each "
        "exactly once.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder made by `train`")
    parser.add_argument("directory", metavar="DIR", help="dataset folder made by `headrace run`")
    parser.add_argument(
        "--split",
        action="append",
        help="split to measure on (default test); may come repeatedly",
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="examples a step")
    parser.add_argument(
        "--cache", metavar="DIR", help="copy the shards to this folder first; s3:// needs it"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="folder for evaluation.json and a picture of each confusion matrix",
    )
    parser.add_argument("--quiet", action="store_true", help="print only a line for each split")
    parser.set_defaults(handler=_evaluate)


def _add_export(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "export",
        help="write a model and its preprocessing as one SavedModel",
        description="Writes a TensorFlow SavedModel from raw input to prediction: the dataset's "
        "transform_fn and the trained model. It needs nothing but TensorFlow.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder made by `train`")
    parser.add_argument(
        "--output", metavar="SAVED", required=True, help="folder to write; nothing may be there"
    )
    parser.add_argument(
        "--format",
        choices=("savedmodel", "tflite"),
        default="savedmodel",
        help="tflite: a file of the model alone, which takes stored features (default savedmodel)",
    )
    parser.add_argument(
        "--dataset",
        metavar="DIR",
        help="the dataset, where the folder of the model keeps nothing of it",
    )
    parser.add_argument("--quiet", action="store_true", help="print only where the model is")
    parser.set_defaults(handler=_export)


def _evaluate(args: argparse.Namespace) -> int:
    with startup.fast_imports():
        startup.import_tensorflow()
        from trainer import evaluate
    results = {
        split: evaluate.evaluate(
            args.model,
            args.directory,
            split,
            batch_size=args.batch_size,
            cache=args.cache,
            verbose=not args.quiet,
        )
        for split in dict.fromkeys(args.split or ["test"])
    }
    if args.output:
        evaluate.write(args.output, results)
    if args.json:
        print(json.dumps(results, indent=1, ensure_ascii=False))
        return 0
    for split, result in results.items():
        print(printable(_line(f"{split}: {result['num_examples']} examples", result)))
        for name, of_label in {"": result, **result.get("labels", {})}.items():
            if name:
                print(printable(_line(f"  {name}", of_label)))
            if not args.quiet and "classes" in of_label:
                print(_table(of_label, result["num_examples"]))
    return 0


def _line(what: str, result: dict[str, Any]) -> str:
    numbers = {
        name: value
        for name, value in result.items()
        if name != "num_examples" and not isinstance(value, dict | list)
    }
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    return f"{what}, {metrics}" if metrics else what


def _table(result: dict[str, Any], num_examples: int) -> str:
    """Returns a line for each class, or, of many, for their mean alone."""
    few = len(result["classes"]) <= _MOST_CLASSES
    classes = [(printable(name), row) for name, row in result["classes"].items() if few]
    width = max(len(name) for name in [*(name for name, _ in classes), "class"])
    lines = [f"  {'class':{width}}  precision  recall      f1    support"]
    for name, row in [*classes, ("mean", result["macro"])]:
        measures = f"{row['precision']:9.4f}  {row['recall']:6.4f}  {row['f1']:6.4f}"
        support = row.get("support", num_examples)
        lines.append(f"  {name:{width}}  {measures}  {support:9,}")
    return "\n".join(lines)


def _export(args: argparse.Namespace) -> int:
    # Whatever a model was trained with: TensorFlow is what a SavedModel is made with.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with startup.fast_imports():
        startup.import_tensorflow()
        from trainer import export
    if args.format == "tflite":
        if args.dataset:
            raise UsageError(
                "--dataset is for raw input, but a TFLite file takes stored features. Leave it out."
            )
        inputs = export.export_tflite(args.model, args.output)
        if not args.quiet:
            print(printable(f"stored features: {', '.join(inputs)}"))
        print(f"TFLite model: {args.output}")
        return 0
    exported = export.export(args.model, args.output, args.dataset)
    if not args.quiet:
        for name, inputs in exported.signatures.items():
            print(printable(f"{name}: {', '.join(inputs)}"))
        for name, other in exported.renamed.items():
            print(f"{name!r} is called {other!r}")
        if exported.packages:
            print(f"needs: {', '.join(exported.packages)}, imported before it is loaded")
        if not exported.has_transform_fn:
            print("the dataset has no transform_fn: only stored features can be given")
    print(f"saved model: {args.output}")
    return 0
