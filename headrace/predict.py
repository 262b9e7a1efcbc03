"""Applies a trained model to raw CSV rows or image files.

They are read by the code of the job that made the dataset, so that nothing can differ.
"""

import collections
import contextlib
import csv
import dataclasses
import itertools
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from beam_jobs import image_headers, images, object_stores, rows, vectors
from beam_jobs.config import Source, Spec, parse_spec
from beam_jobs.config_source import INGESTED, INSTEAD_OF_PATHS
from beam_jobs.errors import DataError, SpecError
from beam_jobs.image_headers import TooLargeImage, UndecodableImage
from beam_jobs.rows import Plan
from beam_jobs.sources import blocks, csv_files, formats, listing, quoting
from beam_jobs.sources.blocks import Structure, Unit
from beam_jobs.sources.listing import File
from trainer import export
from trainer.errors import UsageError
from trainer.export import Served
from trainer.raw_features import RawFeatures

_BLOCK_BYTES = 4 << 20
_ROWS, _FILES = 1024, 64  # Predicted together.

Answer = dict[str, Any]


def predict(
    model_dir: str,
    paths: Sequence[str],
    output: str | None = None,
    *,
    style: str = "json",
    probabilities: bool = False,
    directory: str | None = None,
) -> collections.Counter:
    """Writes a line for each row or file: its prediction, or why there is none.

    Args:
      model_dir: The folder that `train` made.
      paths: CSV files for a model of a table; files or folders of images for one of images.
      output: The file to write; None: stdout.
      style: "json", an object a line, or "csv".
      probabilities: Whether to write those of all classes.
      directory: The dataset, where the model's folder keeps nothing of it.

    Returns:
      How many records were `predicted`, and how many were not for each reason.

    Raises:
      UsageError: The model takes no raw input, it has no classes whose probabilities could be
        written, or the output is no file or one of the inputs.
      SpecError: A path does not exist, or a file lacks a column.
      DataError: A file cannot be read to its end, or there are no rows.
      OSError: The output cannot be written.
    """
    _check_output(output, paths)
    with _opened(output) as file:
        served, dataset = export.load(model_dir, directory)
        if served.raw is None or not dataset.spec:
            raise UsageError(
                f"{model_dir}: its dataset came without spec or transform_fn, so that it takes no "
                "raw input. `headrace evaluate` applies it to stored records."
            )
        prefix = "{}_" if dataset.info.labels else ""  # Of what is said of one of several labels.
        classes = {
            prefix.format(name): label.classes
            for name, label in dataset.info.require_targets().items()
            if label.classes
        }
        if probabilities and not classes:
            raise UsageError(
                f"{model_dir}: it predicts a number, not classes. Leave out --probabilities."
            )
        model = _Model(served, served.raw, classes, are_told=probabilities)
        if model.raw.image and len(model.raw.dtypes) > 1:
            raise UsageError(
                f"{model_dir}: it takes {' and '.join(model.raw.dtypes)} together, but a file is "
                "one image. `headrace export` makes a SavedModel that takes them all."
            )
        if model.raw.image:
            answers = _of_images(paths, model)
        else:
            answers = _of_tables(paths, dataset.spec, model_dir, model)
        write = _csv_lines(file, model) if style == "csv" else _json_lines(file)
        counts: collections.Counter = collections.Counter()
        for answer in answers:
            counts[answer.get("reason", "predicted")] += 1
            write(answer)
        if not counts:
            raise DataError(f"{', '.join(paths)}: holds no rows.")
    return counts


def _check_output(output: str | None, paths: Sequence[str]) -> None:
    """Raises a UsageError where the output would replace an input, or cannot be a file."""
    if output is None:
        return
    is_there = os.path.exists(output)
    if not os.path.basename(output) or (is_there and not os.path.isfile(output)):
        raise UsageError(f"--output must name a file, but {output!r} does not. Give another.")
    for file in _files(paths) if is_there else ():
        if os.path.exists(file.path) and os.path.samefile(file.path, output):
            raise UsageError(f"{output}: is one of the files to read. Give another --output.")


@contextlib.contextmanager
def _opened(output: str | None) -> Iterator[TextIO]:
    """Gives a file to write, which appears when the block ends well; or stdout."""
    if output is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    folder, name = os.path.split(output)
    try:
        scratch = tempfile.TemporaryDirectory(prefix=".partial-", dir=folder or os.curdir)
    except OSError as error:
        raise UsageError(
            f"{output}: cannot be written ({error.strerror}). Give another --output."
        ) from error
    with scratch:
        partial = os.path.join(scratch.name, name)
        with open(partial, "w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(partial, output)


@dataclasses.dataclass(frozen=True)
class _Model:
    """What predicts, what raw inputs become, and the classes of each label, by its prefix."""

    served: Served
    raw: RawFeatures
    classes: Mapping[str, Sequence[str]]
    are_told: bool

    def answers(
        self,
        places: Sequence[Answer],
        inputs: Mapping[str, tf.Tensor],
        orientation: tf.Tensor | None = None,
    ) -> list[Answer]:
        """Returns the places, each with what is predicted for it."""
        named = self.served.of_raw(inputs, orientation)
        columns = {name: values.numpy().tolist() for name, values in named.items()}
        found = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
        return [place | self._readable(row) for place, row in zip(places, found, strict=True)]

    def _readable(self, row: Answer) -> Answer:
        readable = {n: v.decode() if isinstance(v, bytes) else v for n, v in row.items()}
        probabilities = {of: readable.pop(f"{of}probabilities", ()) for of in self.classes}
        if not all(math.isfinite(v) for v in readable.values() if isinstance(v, float)):
            return {"reason": "non_finite_prediction", "detail": ""}  # JSON has no word for it.
        if self.are_told:  # Behind the others.
            for of, values in probabilities.items():
                named = dict(zip(self.classes[of], values, strict=True))
                readable[f"{of}probabilities"] = named
        return readable


def _files(paths: Sequence[str]) -> Iterator[File]:
    """Yields the files that are named, and those below folders that are named, by folder."""
    try:
        for branch in listing.branches(Source(format="images", paths=tuple(paths))):
            num_files = 0
            for found in listing.find([branch]):
                num_files += len(found.names)
                yield from sorted(found.files, key=lambda file: file.path)
            listing.check_matched(branch.said, num_files)
    except SpecError as error:
        raise SpecError(str(error).removeprefix("source.paths: ")) from error


def _of_tables(
    paths: Sequence[str], said: Mapping[str, Any], where: str, model: _Model
) -> Iterator[Answer]:
    """Yields what is said of each row, in the order of the files."""
    spec = _spec(said, where)
    source, beside = spec.source, _columns_beside(said)
    for file in _files(paths):
        for unit in formats.scan([file], source, _BLOCK_BYTES):
            if source.format == "csv" and not source.header:
                unit = _of_fields(unit, source, beside)
            if not unit.blocks:
                continue
            plan = _plan(unit.columns, spec, file.path)
            for part in formats.of(source).units([unit]):
                for structure in formats.of(source).read(part, source):
                    yield from _of_block(structure, plan, model)


def _spec(said: Mapping[str, Any], where: str) -> Spec:
    """Returns a spec without what is about training alone: label, filters, split."""
    kept = {name: said[name] for name in ("name", "source", "features")}
    kept["source"] = dict(said["source"])
    if said["source"]["format"] in INGESTED:  # What Python made then is a CSV file now.
        kept["source"] |= dict.fromkeys(itertools.chain(*INSTEAD_OF_PATHS.values()))
        kept["source"] |= {"format": "csv", "paths": [where]}
    if said["source"]["format"] != "csv":
        kept["source"] |= {"columns": None}  # Which may have been the label's, too.
    return parse_spec(kept | {"split": {"fractions": {"train": 1.0}}}, where)


def _columns_beside(said: Mapping[str, Any]) -> list[str]:
    """Returns the columns of labels and of the weight."""
    sections = [said.get("label"), *said.get("labels", {}).values(), said.get("weight")]
    return [section["column"] for section in sections if section and section.get("column")]


def _of_fields(unit: Unit, source: Source, beside: Collection[str]) -> Unit:
    """Returns the unit of a file without a header, which may lack columns of labels and weight."""
    _, text = next(blocks.texts(unit), (None, b""))
    array, dialect = np.frombuffer(text, np.uint8), csv_files.dialect(source)
    starts, _ = quoting.record_spans(array, dialect)
    others = tuple(column for column in unit.columns if column not in beside)
    lacks_them = quoting.num_fields(array, starts, dialect)[:1].tolist() == [len(others)]
    return dataclasses.replace(unit, columns=others) if lacks_them else unit


def _plan(columns: Sequence[str], spec: Spec, path: str) -> Plan:
    known = {k: dtype for k, dtype in spec.source.types.items() if k in columns}  # No label's.
    source = spec.source.model_copy(update={"types": known})
    try:
        return rows.plan(spec.model_copy(update={"source": source}), columns)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error


def _of_block(structure: Structure, plan: Plan, model: _Model) -> list[Answer]:
    """Returns what is said of each row of a block, in their order."""
    path = structure.files[0].path
    read = rows.read_inputs(structure, plan)
    answers = [
        {"source": path, "line": row["position"], "reason": row["reason"], "detail": row["detail"]}
        for row in read.rejected.to_pylist()
    ]
    for start in range(0, read.raw.num_rows, _ROWS):
        raw = read.raw.slice(start, _ROWS)
        inputs = {name: _tensor(raw.column(name), name, model.raw) for name in raw.schema.names}
        lines = read.places[start : start + _ROWS].tolist()
        answers += model.answers([{"source": path, "line": line} for line in lines], inputs)
    return sorted(answers, key=lambda answer: answer["line"])


def _tensor(column: pa.Array, name: str, raw: RawFeatures) -> tf.Tensor:
    """Returns raw values as the model takes them: (num_rows,), or lists (num_rows, n)."""
    if pa.types.is_list(column.type):
        return tf.constant(vectors.padded(column, raw.shapes[name][0], raw.missing(name)))
    if column.null_count:
        column = pc.fill_null(column, pa.scalar(raw.missing(name), column.type))
    if column.type == pa.string():
        return tf.constant(column.to_pylist(), tf.string, [len(column)])
    return tf.constant(column.to_numpy(zero_copy_only=False))


def _of_images(paths: Sequence[str], model: _Model) -> Iterator[Answer]:
    """Yields what is said of each file, folder by folder, in the order of their names."""
    files = _files(paths)
    while batch := [file.path for file in itertools.islice(files, _FILES)]:
        read = dict(zip(batch, object_stores.read_each(_image, batch), strict=True))
        sound = {path: image for path, image in read.items() if isinstance(image, _Image)}
        answers = {path: image for path, image in read.items() if not isinstance(image, _Image)}
        answers |= zip(sound, _of_sound(sound, model), strict=True)
        yield from (answers[path] for path in batch)


@dataclasses.dataclass(frozen=True)
class _Image:
    """A file in a form that TensorFlow decodes right, and its EXIF orientation."""

    data: bytes
    orientation: int


def _image(path: str) -> _Image | Answer:
    """Reads an image, or says why it is none."""
    try:
        data = listing.read(path)
        header = image_headers.read_header(data)
        return _Image(images.canonical(data, header), header.orientation)
    except TooLargeImage as error:
        return {"source": path, "reason": "too_large_image", "detail": str(error)}
    except UndecodableImage as error:
        return {"source": path, "reason": "undecodable_image", "detail": str(error)}


def _of_sound(sound: Mapping[str, _Image], model: _Model) -> list[Answer]:
    """Returns what is said of each image; where one cannot be decoded, they go one by one."""
    data = tf.constant([image.data for image in sound.values()], tf.string, [len(sound)])
    orientation = tf.constant([i.orientation for i in sound.values()], tf.int64, [len(sound)])
    try:
        places = [{"source": path} for path in sound]
        return model.answers(places, {str(model.raw.image): data}, orientation) if sound else []
    except tf.errors.InvalidArgumentError as error:
        if len(sound) > 1:
            alone = ({path: image} for path, image in sound.items())
            return list(itertools.chain.from_iterable(_of_sound(one, model) for one in alone))
        (path,) = sound
        return [{"source": path, "reason": "undecodable_image", "detail": images.reason(error)}]


def _json_lines(file: TextIO) -> Callable[[Answer], None]:
    return lambda answer: print(json.dumps(answer, ensure_ascii=False), file=file)


def _csv_lines(file: TextIO, model: _Model) -> Callable[[Answer], None]:
    """A column for each class, called `p:<class>`; cells that do not apply are empty.

    Of several labels they are called `p:<label>_<class>`.
    """
    outputs = [f"{of}probabilities" for of in model.classes]
    names = ["source"] if model.raw.image else ["source", "line"]
    names += [name for name in model.served.outputs if name not in outputs]
    told = model.classes if model.are_told else {}
    named = {(of, name): f"p:{of}{name}" for of, classes in told.items() for name in classes}
    columns = [*names, *named.values(), "reason", "detail"]
    table = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    table.writeheader()

    def write(answer: Answer) -> None:
        row = {name: value for name, value in answer.items() if name not in outputs}
        for (of, name), column in named.items():
            row[column] = answer.get(f"{of}probabilities", {}).get(name, "")
        table.writerow(row)

    return write
