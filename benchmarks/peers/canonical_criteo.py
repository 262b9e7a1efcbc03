"""What a user writes today for a table of clicks: plain TFT in its fast form.

    python -m benchmarks.peers.canonical_criteo clicks.csv OUT [BEAM OPTIONS]

TFXIO batches go in, RecordBatches come out. The steps are those of the product's spec: counts are
0 where missing, clipped at 0, log1p, z-score; texts are looked up in the vocabulary of those that
stand there often enough. Prints one line: rows, seconds without imports, rows/s.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_transform.tf_metadata import schema_utils
from tfx_bsl.public import tfxio

from benchmarks.inputs import CLICK_COLUMNS, CLICK_THRESHOLD

_LABEL, _NUMBERS, _TEXTS = CLICK_COLUMNS[0], CLICK_COLUMNS[1:14], CLICK_COLUMNS[14:]


def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
    """Scales counts and looks up texts."""
    outputs = {_LABEL: inputs[_LABEL]}
    for name in _NUMBERS:
        counts = tft.sparse_tensor_to_dense_with_shape(inputs[name], [None, 1], 0.0)
        outputs[name] = tft.scale_to_z_score(tf.math.log1p(tf.maximum(counts, 0.0)))
    for name in _TEXTS:
        texts = tft.sparse_tensor_to_dense_with_shape(inputs[name], [None, 1], "[MISSING]")
        outputs[name] = tft.compute_and_apply_vocabulary(
            texts, frequency_threshold=CLICK_THRESHOLD, num_oov_buckets=1
        )
    return outputs


def run(source: str, output: Path, options: list[str]) -> None:
    """Runs the pipeline."""
    schema = schema_utils.schema_from_feature_spec(
        {_LABEL: tf.io.FixedLenFeature([], tf.int64)}
        | {name: tf.io.VarLenFeature(tf.float32) for name in _NUMBERS}
        | {name: tf.io.VarLenFeature(tf.string) for name in _TEXTS}
    )
    csv = tfxio.BeamRecordCsvTFXIO(
        physical_format="text", column_names=CLICK_COLUMNS, schema=schema
    )
    with (
        beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", *options])) as pipeline,
        tft_beam.Context(temp_dir=tempfile.mkdtemp()),
    ):
        raw = (
            pipeline
            | beam.io.ReadFromText(source, skip_header_lines=1, coder=beam.coders.BytesCoder())
            | csv.BeamSource()
        )
        (data, metadata), transform_fn = (
            raw,
            csv.TensorAdapterConfig(),
        ) | tft_beam.AnalyzeAndTransformDataset(preprocessing_fn, output_record_batches=True)
        coder = tfxio.RecordBatchToExamplesEncoder(metadata.schema)
        _ = (
            data
            | beam.FlatMapTuple(lambda batch, _: coder.encode(batch))
            | beam.io.WriteToTFRecord(str(output / "examples"), file_name_suffix=".tfrecord")
        )
        _ = transform_fn | tft_beam.WriteTransformFn(str(output / "transform_fn"))


def main() -> None:
    """Reads the command line, and times the pipeline."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("output", type=Path)
    args, options = parser.parse_known_args()
    shutil.rmtree(args.output, ignore_errors=True)
    args.output.mkdir(parents=True)
    start = time.perf_counter()
    run(args.source, args.output, options)
    seconds = time.perf_counter() - start
    with open(args.source, "rb") as lines:
        num_rows = sum(1 for _ in lines) - 1
    print(f"canonical criteo: {num_rows} rows, {seconds:.1f} s, {num_rows / seconds:.1f} rows/s")


if __name__ == "__main__":
    main()
