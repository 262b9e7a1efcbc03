"""What a user writes today for a CSV: TFT's census example in its fast form.

    python -m benchmarks.peers.canonical_csv adult.csv OUT [--unique] [BEAM OPTIONS]

TFXIO batches go in, RecordBatches come out. --unique is for the table with two more columns: their
features are those of the product's spec. Prints one line: rows, seconds without imports, rows/s.
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

from benchmarks.inputs import COLUMNS, UNIQUE_COLUMNS

NUMERIC = set("age education_num capital_gain capital_loss hours_per_week fnlwgt amount".split())


def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
    """Scales numbers and looks up texts; too many distinct ones are hashed."""
    outputs = {}
    for name, values in inputs.items():
        if name in NUMERIC:
            outputs[name] = tft.scale_to_z_score(values)
        elif name == "row_hash":
            outputs[name] = tft.hash_strings(values, 1024)
        else:
            outputs[name] = tft.compute_and_apply_vocabulary(values)
    if "amount" in inputs:
        outputs["amount_bucket"] = tft.bucketize(inputs["amount"], 10)
    return outputs


def run(source: str, output: Path, columns: list[str], options: list[str]) -> None:
    """Runs the pipeline."""
    schema = schema_utils.schema_from_feature_spec(
        {
            name: tf.io.FixedLenFeature([], tf.float32 if name in NUMERIC else tf.string)
            for name in columns
        }
    )
    csv = tfxio.BeamRecordCsvTFXIO(physical_format="text", column_names=columns, schema=schema)
    with (
        beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", *options])) as pipeline,
        tft_beam.Context(temp_dir=tempfile.mkdtemp()),
    ):
        raw = (
            pipeline
            | beam.io.ReadFromText(source, coder=beam.coders.BytesCoder())
            | beam.Map(lambda line: line.replace(b", ", b","))
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
    parser.add_argument("--unique", action="store_true")
    args, options = parser.parse_known_args()
    shutil.rmtree(args.output, ignore_errors=True)
    args.output.mkdir(parents=True)
    columns = COLUMNS + (UNIQUE_COLUMNS if args.unique else [])
    start = time.perf_counter()
    run(args.source, args.output, columns, options)
    seconds = time.perf_counter() - start
    with open(args.source, "rb") as lines:
        num_rows = sum(1 for line in lines if line.strip())
    print(f"canonical csv: {num_rows} rows, {seconds:.1f} s, {num_rows / seconds:.1f} rows/s")


if __name__ == "__main__":
    main()
