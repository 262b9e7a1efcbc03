"""A finished dataset whose transform is applied to other records: `--transform-from`."""

import dataclasses
import functools
import hashlib
import io
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from beam_jobs import (
    dataset_info,
    files,
    functions,
    image_normalization,
    inspection,
    saved_transform,
    text,
)
from beam_jobs.config import LABEL, Date, Spec, Text, parse_spec
from beam_jobs.errors import SpecError
from beam_jobs.saved_transform import SavedTransform

_OPTION = "--transform-from"
_Novelty = Mapping[tuple[str, str], int]


@dataclasses.dataclass(frozen=True)
class Earlier:
    """What later data needs of a dataset.

    Attributes:
      info: Its manifest.
      transform: Its transform_fn.
      beside: The vocabularies and statistics beside its manifest, by name.
    """

    info: Mapping[str, Any]
    transform: SavedTransform
    beside: Mapping[str, bytes]

    @property
    def labels(self) -> dict[str, Any]:
        """What the manifest says of its labels, by the names that records have for them."""
        found = {f"{LABEL}/{name}": said for name, said in self.info.get("labels", {}).items()}
        return found | ({LABEL: self.info["label"]} if "label" in self.info else {})

    def classes_of(self, spec: Spec) -> dict[str, tuple[str, ...]]:
        """Returns the classes that later labels may have, of those that have some."""
        of_classes = [name for name, label in spec.stored_labels.items() if label.has_classes]
        return {name: tuple(self.labels[name]["classes"]) for name in of_classes}

    @property
    def origin(self) -> Mapping[str, Any]:
        """What a manifest says of whose statistics these are; of this dataset without `digest`."""
        own = {name: self.info[name] for name in ("name", "spec_digest", "versions")}
        return self.info.get("transform_from", own)

    @functools.cached_property
    def digest(self) -> str:
        """Sha256 over all that shows in later records and their manifest.

        It is the same of two datasets that are made of the same, whose files are not: TensorFlow
        numbers the functions of a process, and draws a UUID for a saved model.
        """
        if "digest" in self.origin:
            return self.origin["digest"]
        said = json.dumps([self.info["features"], self.labels], sort_keys=True)
        text.load_ops(self.spec)
        computed = image_normalization.function_digest(self.transform.load().transform_fn)
        digest = hashlib.sha256(f"{computed} {said}".encode())
        for name in sorted(self.beside):
            digest.update(self.beside[name])
        return digest.hexdigest()

    @property
    def example_bytes(self) -> int:
        """The mean bytes of its records, as they lie in its shards; rounded up."""
        shards = [shard for split in self.info["splits"].values() for shard in split["shards"]]
        num_examples = sum(shard["num_examples"] for shard in shards)
        return -(-sum(shard["bytes"] for shard in shards) // max(1, num_examples)) or 1

    @functools.cached_property
    def spec(self) -> Spec:
        """Its spec."""
        return parse_spec(self.info["spec"], self.info["name"], learns=False)

    def vocabulary(self, name: str) -> list[str]:
        """Returns the tokens of a text, special ones included."""
        return json.loads(self.beside[dataset_info.vocabulary_file(name)])["vocabulary"]

    def ends(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the smallest and the largest of each element of a vector; None without any."""
        said = self.info["features"][name]["statistics"]
        return (self._array(said["min"]), self._array(said["max"])) if "min" in said else None

    def _array(self, said: Any) -> np.ndarray:
        """Returns what stands in the manifest, or in a file beside it."""
        if isinstance(said, dict):
            return np.load(io.BytesIO(self.beside[said["file"]]), allow_pickle=False)
        return np.array(said)

    def features(self, spec: Spec, novelty: _Novelty, splits: list[str]) -> dict[str, Any]:
        """Returns the entries of its features for the manifest of the later dataset.

        Args:
          spec: Of the later dataset.
          novelty: By split and feature how many of its values train never saw.
          splits: Those of the later dataset.
        """
        entries = {
            name: {key: of for key, of in entry.items() if key not in NOVELTIES}
            for name, entry in self.info["features"].items()
        }
        for name, kind in novelties(spec).items():
            entries[name][kind] = {split: novelty.get((split, name), 0) for split in splits}
        return entries

    def write(self, folder: str) -> None:
        """Writes what `read` reads."""
        self.transform.write(folder)
        for name, data in self.beside.items():
            files.write(files.join(folder, name), data)
        files.write(files.join(folder, dataset_info.FILE), json.dumps(self.info).encode())


OUT_OF_RANGE, OUT_OF_VOCABULARY = NOVELTIES = ("out_of_range", "out_of_vocabulary")


def novelties(spec: Spec) -> dict[str, str]:
    """Returns the features whose values train may never have seen, and how that is called."""
    found: dict[str, str] = {}
    if spec.preprocessing_fn is not None:
        return found
    for name, feature in spec.columns.items():
        if isinstance(feature, Date):
            continue
        if isinstance(feature, Text) or feature.last_step == "compute_and_apply_vocabulary":
            found[name] = OUT_OF_VOCABULARY
        elif feature.dtype != "string":
            found[name] = OUT_OF_RANGE
    return found | dict.fromkeys(spec.vectors, OUT_OF_RANGE)


def find(folder: str, spec: Spec, output: str) -> Earlier:
    """Returns a dataset whose transform fits a spec.

    Args:
      folder: Where it lies.
      spec: Of the later dataset.
      output: Where that is to lie.

    Raises:
      SpecError: There is no finished dataset, it lacks its transform, or its features are others.
      DataError: Its manifest is damaged, or of another format version.
    """
    if _is_same(folder, output):
        raise SpecError(f"{_OPTION}: {folder!r} is the output folder, too. Give another --output.")
    needed = _files_beside(inspection.read_manifest(folder))
    earlier = read(folder)
    for name in needed - earlier.beside.keys():
        raise SpecError(f"{folder}: {name} is missing. Make the dataset again.")
    try:
        there = earlier.spec
    except SpecError as error:  # Of a later headrace.
        raise SpecError(f"{_OPTION} {folder}: its spec is of another version: {error}") from error
    if spec.preprocessing_fn != there.preprocessing_fn:
        raise SpecError(
            f"{_OPTION} {folder}: preprocessing_fn is {there.preprocessing_fn!r} there, but "
            f"{spec.preprocessing_fn!r} in the spec. Give the same, since its transform has it."
        )
    _check_features(spec, there, folder)
    _check_label(spec, earlier, folder)
    try:
        _ = earlier.digest
    except Exception as error:  # TensorFlow has many for a file that is gone, damaged or too new.
        what = functions.said(error)
        raise SpecError(
            f"{folder}: its transform_fn cannot be loaded: {what}. Make the dataset again."
        ) from error
    return earlier


def _files_beside(manifest: inspection.Manifest) -> set[str]:
    found = set()
    for feature in manifest.features.values():
        found |= {array.file for array in feature.array_files}
        found |= {feature.vocabulary_file} if feature.vocabulary_file else set()
    return found


@functools.lru_cache(maxsize=2)
def left(folder: str, _: str) -> Earlier:
    """Reads what a launcher has left for its workers, once in a process.

    Args:
      folder: Where `Earlier.write` wrote it.
      _: The digest, by which it is told from what another launcher leaves there.
    """
    return read(folder)


def read(folder: str) -> Earlier:
    """Reads what a folder holds of a dataset beside its shards."""
    info = json.loads(files.read(files.join(folder, dataset_info.FILE)) or b"")
    beside = {}
    for name in files.names(folder):
        if any(pattern.fullmatch(name) for pattern in dataset_info.BESIDE):
            beside[name] = files.read(files.join(folder, name)) or b""
    return Earlier(info, saved_transform.read(folder), beside)


def _is_same(folder: str, output: str) -> bool:
    if files.is_local(folder) and files.is_local(output):
        return os.path.realpath(folder) == os.path.realpath(output)
    return folder.rstrip("/") == output.rstrip("/")


def _check_features(spec: Spec, there: Spec, folder: str) -> None:
    ours, theirs = _said(spec), _said(there)
    for name in sorted(ours.keys() ^ theirs.keys()):
        where = "in the spec, but not there" if name in ours else "there, but not in the spec"
        raise SpecError(
            f"{_OPTION} {folder}: features.{name} is {where}. Give the same features, since its "
            "transform gives them."
        )
    for name, said in ours.items():
        for key in sorted(said.keys() | theirs[name].keys()):
            here, before = said.get(key), theirs[name].get(key)
            if here != before:
                raise SpecError(
                    f"{_OPTION} {folder}: features.{name}.{key} is {before!r} there, but {here!r} "
                    "in the spec. Give the same features, since its transform makes them."
                )


def _said(spec: Spec) -> dict[str, dict[str, Any]]:
    """Returns what a spec says of its features, but for where files lie: the transform has them."""
    found = {}
    for name, feature in spec.features.items():
        said = feature.model_dump(mode="json", by_alias=True, exclude={*_paths(feature)})
        if name in spec.columns:
            said["column"] = spec.column_of(name)
        else:  # transform_fn takes an image by the name of its feature.
            said.pop("column", None)
        found[name] = said
    return found


def _paths(feature: Any) -> Mapping[str, str]:
    return feature.paths if isinstance(feature, Text) else {}


def _check_label(spec: Spec, earlier: Earlier, folder: str) -> None:
    for name, label in spec.stored_labels.items():
        before = earlier.labels.get(name, {}).get("type")
        if before != label.type:
            where = name.replace(f"{LABEL}/", "labels.")
            has = f"{where}.type is {before!r} there, but {label.type!r} in the spec"
            has = has if before else f"it has no {where}, but the spec does"
            section = where.partition(".")[0]
            raise SpecError(f"{_OPTION} {folder}: {has}. Give the same, or leave [{section}] out.")
