"""One run of a spec: what every stage of it knows, and what it finished before."""

import dataclasses
import functools
import itertools
import json
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from beam_jobs import earlier, files, reasons
from beam_jobs.config import Spec
from beam_jobs.earlier import Earlier
from beam_jobs.errors import DataError
from beam_jobs.shards import PROGRESS_FOLDER, ShardInfo, ShardWriter, is_intact, shard_name
from beam_jobs.shuffle import Place
from beam_jobs.sources import units
from beam_jobs.sources.listing import File

REJECTED_FOLDER = "rejected"
_EARLIER_FOLDER = "transform_from"  # Of the progress folder.
_MIN_UNREADABLE = 10  # So many are borne in any input.


class Unit(NamedTuple):
    """Some hundred files: where their list lies, in bytes of a file of the progress folder."""

    number: int
    file: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class ShardResult:
    """A finished shard.

    Attributes:
      place: Its split and index.
      info: Its entry in the manifest.
      class_counts: Of each label its records per class.
      rejected: Records per reason that turned out to be unreadable while it was written.
      pixels: Of each image feature, how often each pixel value occurs: (channels, 256).
    """

    place: Place
    info: ShardInfo
    class_counts: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    rejected: Mapping[str, int] = dataclasses.field(default_factory=dict)
    pixels: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def rejected_name(self) -> str:
        """The file of the records that were rejected while it was written."""
        return f"{self.place.split}-{self.place.shard:05d}.jsonl"

    def to_json(self) -> dict[str, Any]:
        """Returns it for a JSON file."""
        return {
            "split": self.place.split,
            "index": self.place.shard,
            "info": self.info.to_json(),
            "class_counts": {name: dict(counts) for name, counts in self.class_counts.items()},
            "rejected": dict(self.rejected),
            "pixels": {name: counts.tolist() for name, counts in self.pixels.items()},
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "ShardResult":
        """Reads what `to_json` returned."""
        return cls(
            Place(entry["split"], entry["index"]),
            ShardInfo.from_json(entry["info"]),
            {name: dict(counts) for name, counts in entry["class_counts"].items()},
            entry["rejected"],
            {name: np.array(counts, np.int64) for name, counts in entry["pixels"].items()},
        )


@dataclasses.dataclass(frozen=True)
class Job:
    """What every stage knows.

    Attributes:
      spec: What to do.
      output: The dataset folder.
      temp_folder: Local disk that all stages share, for the shuffle; None where workers share none.
      threads: Threads a worker uses; None for one for each of its own cores.
      block_bytes: Size of the blocks that tables are read in.
      id: Another one for each run: a job may outlive the command that started it.
      transform_from: The digest of the dataset whose transform is applied; None to learn one.
    """

    spec: Spec
    output: str
    temp_folder: str | None
    threads: int | None
    block_bytes: int
    id: str = ""
    transform_from: str | None = None

    @property
    def earlier(self) -> Earlier | None:
        """The dataset whose transform is applied, as `save_earlier` left it."""
        if self.transform_from is None:
            return None
        return earlier.left(self._progress(_EARLIER_FOLDER), self.transform_from)

    def save_earlier(self, found: Earlier) -> None:
        """Leaves what is needed of a dataset where every worker finds it."""
        found.write(self._progress(_EARLIER_FOLDER))

    @functools.cached_property
    def finished(self) -> frozenset[str]:
        """The shards that an earlier try finished: a worker looks once, a graph would be full."""
        return frozenset(self.state()["finished"])

    @property
    def num_threads(self) -> int:
        """How many threads a task may use where it runs."""
        return self.threads or os.cpu_count() or 1

    @property
    def shared_folder(self) -> str:
        """Where one stage leaves a file for another: the dataset folder unless disk is shared."""
        return self.temp_folder or files.join(self.output, PROGRESS_FOLDER)

    def shard_name(self, place: Place, count: int) -> str:
        """Returns the file of a shard."""
        return shard_name(place.split, place.shard, count, self.spec.output.compression)

    def num_shards(self, num_examples: int, example_bytes: int) -> int:
        """Returns the number of shards of a split.

        Args:
          num_examples: Its records.
          example_bytes: The most that one takes, framing included.
        """
        output = self.spec.output
        if output.num_shards is not None:
            return output.num_shards
        wanted = int((output.shard_mb or 128) * 1_000_000)
        return max(1, -(-num_examples * example_bytes // wanted))

    def state(self) -> dict[str, Any]:
        """Returns what `save_state` noted.

        Raises:
          DataError: It is gone, or another job has started here since.
        """
        state = json.loads(self._noted("job.json"))
        if state["id"] != self.id:
            raise DataError(
                f"{self.output}: another job has started in this folder, so this one ends. Run one "
                "job at a time in a folder."
            )
        return state

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Notes which job it is, for a later try and for the tasks of this one.

        Args:
          state: spec_digest, versions, input_fingerprint, and the names of the finished shards.
        """
        self._note("job.json", json.dumps({**state, "id": self.id}).encode())

    def publish(self, writer: ShardWriter) -> ShardInfo:
        """Puts a finished shard into its place.

        Raises:
          DataError: Another job has started here since.
        """
        self.state()
        return writer.close()

    def save(self, result: ShardResult) -> None:
        """Notes that a shard is finished, for a later try."""
        self._note(f"{result.info.file}.json", json.dumps(result.to_json()).encode())

    def result(self, name: str) -> ShardResult:
        """Returns what was noted of a finished shard.

        Raises:
          DataError: It is gone.
        """
        return ShardResult.from_json(json.loads(self._noted(f"{name}.json")))

    def save_units(self, name: str, packed: Sequence[bytes]) -> list[Unit]:
        """Leaves lists of files where every worker finds them, all in one file."""
        self._note(name, b"".join(packed))
        ends = itertools.accumulate(map(len, packed), initial=0)
        return [Unit(number, name, *of) for number, of in enumerate(itertools.pairwise(ends))]

    def save_listing(self, listed: units.Listing) -> None:
        """Leaves the whole input where every worker finds it."""
        saved = self.save_units("listing.arrow", listed.units)
        self._note("listing.json", json.dumps(saved).encode())

    def listed(self) -> list[Unit]:
        """Returns the units of what `save_listing` left.

        Raises:
          DataError: It is gone.
        """
        return [Unit(*fields) for fields in json.loads(self._noted("listing.json"))]

    def read_unit(self, unit: Unit) -> list[File]:
        """Returns the files of a unit.

        Raises:
          DataError: It is gone.
        """
        data = files.read_range(self._progress(unit.file), unit.start, unit.end)
        return units.unpacked(self._there(unit.file, data))

    def read_units(self, name: str) -> bytes:
        """Returns all units of a file.

        Raises:
          DataError: It is gone.
        """
        return self._noted(name)

    def _note(self, name: str, data: bytes) -> None:
        files.write(self._progress(name), data)

    def _noted(self, name: str) -> bytes:
        return self._there(name, files.read(self._progress(name)))

    def _there(self, name: str, data: bytes | None) -> bytes:
        if data is None:
            path = self._progress(name)
            raise DataError(
                f"{path}: is gone, or {platform.node()} does not see it. Run one job at a time in "
                "a folder, and give one that all workers share."
            )
        return data

    def _progress(self, name: str) -> str:
        return files.join(self.output, PROGRESS_FOLDER, name)

    def write_rejected(self, name: str, lines: bytes) -> None:
        """Writes the records that a unit of work rejected; a retried one replaces its file."""
        if lines:
            files.write(files.join(self.output, REJECTED_FOLDER, name), lines)


def finished_shards(output: str) -> dict[str, ShardResult]:
    """Returns the shards that an earlier try finished and that are still what they were."""
    folder = files.join(output, PROGRESS_FOLDER)
    found = {}
    for name in files.names(folder):
        if ".tfrecord" in name and name.endswith(".json"):
            try:
                data = files.read(files.join(folder, name)) or b""
                result = ShardResult.from_json(json.loads(data))
            except (ValueError, LookupError, TypeError, AttributeError):
                continue  # Damaged, as by a power cut: the shard is made again.
            if is_intact(output, result.info):
                found[result.info.file] = result
    return found


def check_readable(read: int, rejected: Mapping[str, int], spec: Spec, output: str) -> None:
    """Raises a DataError if more records than `max_rejected` allows could not be read."""
    unreadable = Counter(
        {reason: count for reason, count in rejected.items() if reasons.is_unreadable(reason)}
    )
    count, allowed = unreadable.total(), spec.output.max_rejected
    if count > _MIN_UNREADABLE and count > allowed * read:
        width = max(map(len, unreadable))
        table = "".join(
            f"\n  {reason:{width}} {count:>9,}" for reason, count in unreadable.most_common()
        )
        raise DataError(
            f"{count:,} of {read:,} records cannot be read, more than [output] max_rejected = "
            f"{allowed} allows. Mend the input, or raise it; the records are in "
            f"{files.join(output, REJECTED_FOLDER)}.{table}"
        )


def check_any_left(
    what: str, num_examples: Mapping[str, int], read: int, rejected: Mapping[str, int]
) -> None:
    """Raises a DataError if no record is left in any split; `what` is what they are called."""
    if not any(num_examples.values()):
        raise DataError(reasons.none_left(what, read, rejected, "any split"))
