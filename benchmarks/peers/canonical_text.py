"""What a user writes today for texts: TFT's sentiment example in its fast form.

    python -m benchmarks.peers.canonical_text reviews.csv OUT --mode int|tf_idf [BEAM OPTIONS]

TFXIO batches go in, RecordBatches come out. As in the example, texts are split into words, words
become indices of a vocabulary of 20,000, and these, in the mode tf_idf, weights by tft.tfidf.
Prints one line: rows, seconds without imports, rows/s.
"""

import argparse
import functools
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

from benchmarks.inputs import REVIEW_COLUMNS, VOCABULARY_SIZE

_PUNCTUATION = r"""[!"#$%&()*+,\-./:;<=>?@\[\\\]^_`{|}~']"""


def preprocessing_fn(inputs: dict[str, Any], mode: str) -> dict[str, Any]:
    """Words to indices, and these to tf-idf."""
    texts = tf.strings.regex_replace(inputs["text"], "<br />", " ")
    texts = tf.strings.regex_replace(tf.strings.lower(texts), _PUNCTUATION, "")
    words = tf.strings.split(texts).to_sparse()
    size = VOCABULARY_SIZE - 1
    indices = tft.compute_and_apply_vocabulary(words, top_k=size, num_oov_buckets=1)
    outputs = {"label": tft.compute_and_apply_vocabulary(inputs["label"])}
    if mode == "int":
        return outputs | {"text": indices}
    columns, weights = tft.tfidf(indices, VOCABULARY_SIZE)
    return outputs | {"text": columns, "weights": weights}


def run(source: str, output: Path, mode: str, options: list[str]) -> None:
    """Runs the pipeline."""
    schema = schema_utils.schema_from_feature_spec(
        {name: tf.io.FixedLenFeature([], tf.string) for name in REVIEW_COLUMNS}
    )
    csv = tfxio.BeamRecordCsvTFXIO(
        physical_format="text", column_names=REVIEW_COLUMNS, schema=schema
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
        ) | tft_beam.AnalyzeAndTransformDataset(
            functools.partial(preprocessing_fn, mode=mode), output_record_batches=True
        )
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
    parser.add_argument("--mode", choices=["int", "tf_idf"], required=True)
    args, options = parser.parse_known_args()
    shutil.rmtree(args.output, ignore_errors=True)
    args.output.mkdir(parents=True)
    start = time.perf_counter()
    run(args.source, args.output, args.mode, options)
    seconds = time.perf_counter() - start
    with open(args.source, "rb") as lines:
        num_rows = sum(1 for _ in lines) - 1
    print(f"canonical text: {num_rows} rows, {seconds:.1f} s, {num_rows / seconds:.1f} rows/s")


if __name__ == "__main__":
    main()
