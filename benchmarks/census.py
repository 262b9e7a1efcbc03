"""One network on the records of examples/census.toml and on those of TFT's census example.

    python -m benchmarks.census --data DIR [--epochs 5] [--seeds 1] [--work DIR]

Both read DIR/adult/adult-train.csv and adult-test.csv; vocabularies, minima and maxima are those of
train. The network and its training are those of TFT's example, in examples/census.py: for each seed
it begins with the same weights on both sides. Prints the accuracies on test. The work folder keeps
the records of both, in `headrace` and `tft`.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf
import tensorflow_transform as tft

from benchmarks.peers import canonical_census
from examples import census

SPEC = Path(census.__file__).with_suffix(".toml")


def transform(data: Path, work: Path) -> None:
    """Runs headrace and, beside it, TFT."""
    (work / "data").mkdir(parents=True, exist_ok=True)
    adult = work / "data" / "adult"
    adult.unlink(missing_ok=True)
    adult.symlink_to((data / "adult").resolve())
    spec = work / SPEC.name
    spec.write_text(SPEC.read_text())
    files = [str(data / "adult" / f"adult-{split}.csv") for split in ("train", "test")]
    ours = ["headrace", "run", str(spec), "--output", str(work / "headrace"), "--quiet"]
    theirs = [canonical_census.__name__, *files, str(work / "tft")]
    started = [subprocess.Popen([sys.executable, "-m", *words]) for words in (ours, theirs)]
    if any([process.wait() for process in started]):
        sys.exit("benchmarks.census: a job failed, see above.")


def tft_batches(folder: Path, split: str, seed: int) -> tf.data.Dataset:
    """Returns batches of TFT's records, read as its example reads them."""
    is_train = split == "train"
    read = tf.data.experimental.make_batched_features_dataset(
        str(folder / f"{split}-*"),
        census.BATCH_SIZE,
        tft.TFTransformOutput(str(folder)).transformed_feature_spec(),
        reader=tf.data.TFRecordDataset,
        label_key=canonical_census.LABEL,
        num_epochs=1,
        shuffle=is_train,
        shuffle_seed=seed,
        drop_final_batch=is_train,
    )
    return read.map(lambda features, label: ({n: _dense(v) for n, v in features.items()}, label))


def _dense(values: tf.Tensor | tf.SparseTensor) -> tf.Tensor:
    if isinstance(values, tf.SparseTensor):
        return tf.cast(tf.sparse.to_dense(values), tf.float32)
    return values


def rows(work: Path, epochs: int, seeds: int) -> Iterator[list[str]]:
    """Returns the table of accuracies: a title, and a row for each side."""
    yield ["records of", *(f"seed {seed}" for seed in range(seeds))]
    for name, read in (("headrace", census.batches), ("tft", tft_batches)):
        found = []
        for seed in range(seeds):
            keras.utils.set_random_seed(seed)  # TFT's order is of this one and its own.
            train, test = (read(work / name, split, seed) for split in ("train", "test"))
            found.append(census.accuracy(train, test, epochs, seed, verbose=0))
        yield [name, *(f"{value:.4f}" for value in found)]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.census", description=__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR", required=True, help="holds adult/")
    parser.add_argument("--work", type=Path, metavar="DIR", help="a new folder; else temporary")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary) / "work"
        transform(args.data, work)
        for index, row in enumerate(rows(work, args.epochs, args.seeds)):
            print(f"| {' | '.join(row)} |", flush=True)
            if not index:
                print("|---" * len(row) + "|")


if __name__ == "__main__":
    main()
