"""What TFT's census example does to the data, in plain TFT.

    python -m benchmarks.peers.canonical_census TRAIN.csv TEST.csv OUT

The steps of census_example_v2.py: what it learns from train goes through train and test. OUT gets
`train-*` and `test-*`, TFRecords of examples, and the transform_fn, whose assets are the
vocabularies. Columns have the names of examples/census.toml.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import schema_utils
from tfx_bsl.public import tfxio

from benchmarks.inputs import COLUMNS

NUMBERS = ("age", "capital_gain", "capital_loss", "hours_per_week")
MAY_BE_MISSING = "education_num"
LABEL = "income"
CLASSES = (">50K", "<=50K")
TEXTS = tuple(name for name in COLUMNS if name not in (*NUMBERS, MAY_BE_MISSING, LABEL, "fnlwgt"))
_NUM_OOV_BUCKETS = 1


def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
    """Numbers from 0 to 1, texts and the label one-hot."""
    outputs = {name: tft.scale_to_0_1(inputs[name]) for name in NUMBERS}
    scaled = tft.scale_to_0_1(inputs[MAY_BE_MISSING])
    one_each = tf.SparseTensor(scaled.indices, scaled.values, [scaled.dense_shape[0], 1])
    outputs[MAY_BE_MISSING] = tf.reshape(tf.sparse.to_dense(one_each), [-1])
    for name in TEXTS:
        indices = tft.compute_and_apply_vocabulary(
            tf.strings.strip(inputs[name]), num_oov_buckets=_NUM_OOV_BUCKETS, vocab_filename=name
        )
        depth = tft.experimental.get_vocabulary_size_by_name(name) + _NUM_OOV_BUCKETS
        one_hot = tf.one_hot(indices, tf.cast(depth, tf.int32), dtype=tf.int64)
        outputs[name] = tf.sparse.from_dense(tf.reshape(one_hot, [-1, depth]))
        tft.experimental.annotate_sparse_output_shape(outputs[name], depth)
    label = tf.strings.strip(tf.strings.regex_replace(inputs[LABEL], r"\.", ""))
    outputs[LABEL] = tf.cast(tf.equal(label[:, None], CLASSES), tf.float32)
    return outputs


def run(files: dict[str, str], output: Path) -> None:
    """Runs the pipeline over the files of train and test."""
    spec: dict[str, Any] = {name: tf.io.FixedLenFeature([], tf.float32) for name in NUMBERS}
    spec |= {name: tf.io.FixedLenFeature([], tf.string) for name in (*TEXTS, LABEL)}
    spec[MAY_BE_MISSING] = tf.io.VarLenFeature(tf.float32)
    csv = tfxio.BeamRecordCsvTFXIO(
        physical_format="text",
        column_names=COLUMNS,
        schema=schema_utils.schema_from_feature_spec(spec),
    )
    with (
        beam.Pipeline(runner="FnApiRunner") as pipeline,
        tft_beam.Context(temp_dir=tempfile.mkdtemp()),
    ):
        raw = {
            split: (
                pipeline
                | f"Read {split}" >> beam.io.ReadFromText(path, coder=beam.coders.BytesCoder())
                | f"Trim {split}" >> beam.Map(lambda line: line.replace(b", ", b","))
                | f"Parse {split}" >> csv.BeamSource(),
                csv.TensorAdapterConfig(),
            )
            for split, path in files.items()
        }
        transform_fn = raw["train"] | tft_beam.AnalyzeDataset(preprocessing_fn)
        for split, dataset in raw.items():
            transformed = (dataset, transform_fn) | f"Transform {split}" >> (
                tft_beam.TransformDataset(output_record_batches=True)
            )
            _ = (
                transformed
                | f"Encode {split}" >> tft_beam.EncodeTransformedDataset()
                | f"Write {split}" >> beam.io.WriteToTFRecord(str(output / split))
            )
        _ = transform_fn | tft_beam.WriteTransformFn(str(output))


def main() -> None:
    """Reads the command line, and writes the folder anew."""
    parser = argparse.ArgumentParser()
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    shutil.rmtree(args.output, ignore_errors=True)
    args.output.mkdir(parents=True)
    run({"train": args.train, "test": args.test}, args.output)


if __name__ == "__main__":
    main()
