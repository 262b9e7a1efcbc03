"""One run of a spec: what every stage of it knows, and what it finished before."""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from beam_jobs import files, reasons
from beam_jobs.config import Spec
from beam_jobs.errors import DataError
from beam_jobs.shards import PROGRESS_FOLDER, ShardInfo, is_intact, shard_name
from beam_jobs.shuffle import Place
from beam_jobs.sources import listing
from beam_jobs.sources.listing import File

REJECTED_FOLDER = "rejected"
_MIN_UNREADABLE = 10  # So many are borne in any input.


@dataclasses.dataclass(frozen=True)
class ShardResult:
    """A finished shard.

    Attributes:
      place: Its split and index.
      info: Its entry in the manifest.
      class_counts: Its records per class.
      rejected: Records per reason that turned out to be unreadable while it was written.
      pixels: Of an image dataset, how often each pixel value occurs: (channels, 256).
    """

    place: Place
    info: ShardInfo
    class_counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    rejected: Mapping[str, int] = dataclasses.field(default_factory=dict)
    pixels: np.ndarray | None = None

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
            "class_counts": dict(self.class_counts),
            "rejected": dict(self.rejected),
            "pixels": None if self.pixels is None else self.pixels.tolist(),
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "ShardResult":
        """Reads what `to_json` returned."""
        pixels = entry["pixels"]
        return cls(
            Place(entry["split"], entry["index"]),
            ShardInfo.from_json(entry["info"]),
            entry["class_counts"],
            entry["rejected"],
            None if pixels is None else np.array(pixels, np.int64),
        )


@dataclasses.dataclass(frozen=True)
class Job:
    """What every stage knows.

    Attributes:
      spec: What to do.
      output: The dataset folder.
      fingerprint: Of the input.
      temp_folder: Local disk that all stages share, for the shuffle; None where workers share none.
      threads: Threads a worker uses; None for one for each of its own cores.
      block_bytes: Size of the blocks that tables are read in.
      finished: The shards that an earlier try finished, by file.
    """

    spec: Spec
    output: str
    fingerprint: str
    temp_folder: str | None
    threads: int | None
    block_bytes: int
    finished: Mapping[str, ShardResult] = dataclasses.field(default_factory=dict)

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

    def save(self, result: ShardResult) -> None:
        """Notes that a shard is finished, for a later try."""
        path = files.join(self.output, PROGRESS_FOLDER, f"{result.info.file}.json")
        files.write(path, json.dumps(result.to_json()).encode())

    def save_listing(self, index: int, listed: Sequence[File]) -> None:
        """Leaves a list of files where every worker finds it."""
        files.write(self._listing_file(index), listing.packed(listed))

    def read_listing(self, index: int) -> list[File]:
        """Returns a list of files that was saved.

        Raises:
          DataError: It is gone.
        """
        data = files.read(self._listing_file(index))
        if data is None:
            raise DataError(
                f"{self._listing_file(index)}: is gone. Run one job at a time in a folder."
            )
        return listing.unpacked(data)

    def _listing_file(self, index: int) -> str:
        return files.join(self.output, PROGRESS_FOLDER, f"listing-{index:05d}.arrow")

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
