"""The commands of the trainer. TensorFlow is imported only when one of them runs."""

import argparse
import os
import sys
from typing import Any

from trainer import cli_models, startup
from trainer.choices import CLASS_WEIGHTS, MIXED_PRECISION, SCHEDULES
from trainer.errors import Terminated


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Adds the commands; each sets `handler`, a function from args to an exit status."""
    _add_train(subparsers)
    cli_models.add_commands(subparsers)


def _add_train(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train a Keras model on a dataset folder",
        description="Trains a Keras model on the split train of a dataset folder. The model, the "
        "number of epochs and the batch size follow from the dataset unless they are given.",
        epilog="After a stop, also by SIGTERM (exit status 143) or Ctrl-C (130), the same command "
        "goes on from the last checkpoint, with the same steps as if it had never stopped. A stop "
        "during validation saves nothing new.",
    )
    parser.add_argument("directory", metavar="DIR", help="dataset folder made by `headrace run`")
    parser.add_argument(
        "--output",
        metavar="MODEL",
        required=True,
        help="folder for model.keras and history.json; made if need be",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, metavar="N", help="passes over train")
    length.add_argument("--steps", type=int, metavar="N", help="batches, instead of epochs")
    parser.add_argument("--batch-size", type=int, metavar="N", help="examples a step")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="decides first weights, dropout and the order of examples (default 0)",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="the same weights in every run on one machine; slower",
    )
    parser.add_argument(
        "--model",
        metavar="package.module:function",
        help="function from the dataset's DatasetInfo to a keras.Model, or a backbone for images, "
        "keras.applications:EfficientNetB0; otherwise the network follows from the features",
    )
    parser.add_argument(
        "--learning-rate", type=float, metavar="X", help="the highest rate of the schedule"
    )
    parser.add_argument(
        "--schedule",
        choices=SCHEDULES,
        default="cosine",
        help="of the learning rate: a rise and a cosine decay (the default), or none",
    )
    parser.add_argument(
        "--class-weights",
        choices=CLASS_WEIGHTS,
        default="none",
        help="balanced: each class weighs the same in the loss, however rare (default none)",
    )
    parser.add_argument(
        "--accumulate",
        type=int,
        default=1,
        metavar="N",
        help="change the weights after every N steps, by the mean of their gradients (default 1); "
        "steps at the end that do not fill N change nothing",
    )
    parser.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help="end after N epochs without a better one on validation",
    )
    parser.add_argument(
        "--crop",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="cut this out of images that are stored as JPEG or PNG, another part each time; "
        "evaluate, export and predict take the middle",
    )
    parser.add_argument(
        "--augmentation",
        metavar="FILE",
        help="TOML with what changes images at random: rotation_range, horizontal_flip and others "
        "of ImageDataGenerator, mixup, cutmix, rand_augment; see docs/training.md",
    )
    parser.add_argument(
        "--mixed-precision",
        choices=MIXED_PRECISION,
        default="none",
        help="compute in bfloat16, with weights as float32 (default none)",
    )
    parser.add_argument(
        "--cache", metavar="DIR", help="copy the shards to this folder first; s3:// needs it"
    )
    parser.add_argument(
        "--checkpoint-every",
        type=int,
        metavar="N",
        help="steps between checkpoints (default: a minute, and the ends of epochs)",
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="write event files to MODEL/tensorboard"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="train anew where a model is finished, or was begun with other options or data",
    )
    parser.add_argument("--quiet", action="store_true", help="print only where the model is")
    parser.set_defaults(handler=_train)


def _import_train() -> Any:
    with startup.fast_imports():
        startup.import_tensorflow()
        from trainer import train
    return train


def _train(args: argparse.Namespace) -> int:
    train = _import_train()
    try:
        train.train(
            args.directory,
            args.output,
            epochs=args.epochs,
            steps=args.steps,
            batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            schedule=args.schedule,
            class_weights=args.class_weights,
            accumulate=args.accumulate,
            patience=args.patience,
            crop=args.crop and (args.crop[0], args.crop[1]),
            augmentation=args.augmentation,
            mixed_precision=args.mixed_precision,
            seed=args.seed,
            deterministic=args.deterministic,
            model=args.model,
            cache=args.cache,
            checkpoint_every=args.checkpoint_every,
            tensorboard=args.tensorboard,
            overwrite=args.overwrite,
            verbose=not args.quiet,
        )
    except Terminated as end:
        print(f"headrace: {end}", file=sys.stderr)
        return int(end.code or 0)
    print(f"model: {os.path.join(args.output, 'model.keras')}")
    return 0
