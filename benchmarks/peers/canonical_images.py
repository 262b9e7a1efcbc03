"""What a user writes today for images: one dict per file; TFT decodes, resizes and centers.

    python -m benchmarks.peers.canonical_images 'photos/**/*.JPEG' 224 OUT [BEAM OPTIONS]

Prints one line: images, seconds without imports, images/s.
"""

import glob
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils


def read(path: str) -> dict[str, Any]:
    """Returns a file and the name of its folder."""
    return {"image": Path(path).read_bytes(), "label": Path(path).parent.name}


def make_preprocessing_fn(size: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Returns a preprocessing_fn for images of `size` pixels a side."""

    def decode(data: Any) -> Any:
        image = tf.image.resize(tf.io.decode_jpeg(data, 3), [size, size])
        return tf.ensure_shape(image, [size, size, 3]) / 255.0

    def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
        image = tf.map_fn(decode, inputs["image"], fn_output_signature=tf.float32)
        mean = tft.mean(tf.reshape(image, [-1, 3]), reduce_instance_dims=False)
        label = tft.compute_and_apply_vocabulary(inputs["label"])
        return {"image": image - mean, "label": label}

    return preprocessing_fn


def run(paths: list[str], size: int, output: Path, options: list[str]) -> None:
    """Runs the pipeline."""
    text = tf.io.FixedLenFeature([], tf.string)
    schema = schema_utils.schema_from_feature_spec({"image": text, "label": text})
    with (
        beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", *options])) as pipeline,
        tft_beam.Context(temp_dir=tempfile.mkdtemp()),
    ):
        raw = pipeline | beam.Create(paths) | beam.Reshuffle() | beam.Map(read)
        (data, metadata), transform_fn = (
            raw,
            dataset_metadata.DatasetMetadata(schema),
        ) | tft_beam.AnalyzeAndTransformDataset(make_preprocessing_fn(size))
        _ = (
            data
            | beam.Map(tft.coders.ExampleProtoCoder(metadata.schema).encode)
            | beam.io.WriteToTFRecord(str(output / "examples"), file_name_suffix=".tfrecord")
        )
        _ = transform_fn | tft_beam.WriteTransformFn(str(output / "transform_fn"))


def main(pattern: str, size: str, folder: str, *options: str) -> None:
    """Times the pipeline."""
    output = Path(folder)
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    paths = sorted(glob.glob(pattern, recursive=True))
    start = time.perf_counter()
    run(paths, int(size), output, list(options))
    seconds = time.perf_counter() - start
    rate = len(paths) / seconds
    print(f"canonical images: {len(paths)} images, {seconds:.1f} s, {rate:.1f} images/s")


if __name__ == "__main__":
    main(*sys.argv[1:])
