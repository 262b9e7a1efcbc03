"""Prints the tables of docs/scale.md: what large jobs would take, from rates measured in small.

python -m benchmarks.scale
"""

import dataclasses
import math

# Dollars, an assumption of November 2026 to be replaced by what is paid: Dataflow batch, Iowa.
VCPU_HOUR, MEMORY_GB_HOUR, SHUFFLE_GB = 0.056, 0.003557, 0.011
GB_A_VCPU = 4.0  # A worker of the standard machine types.
SHARD_BYTES = 180  # Of the manifest.


@dataclasses.dataclass(frozen=True)
class Work:
    """A large job, and what was measured of its kind.

    Attributes:
      name: What it is.
      records: Rows or images.
      input_bytes: Compressed as they lie there.
      passes: How often they are read; a header is the first 64 KiB of a photo.
      unit_records: Records that one task reads.
      record_cpu: Seconds of one core for a record, all stages (benchmarks.rates).
      record_shuffled: Bytes that a record takes in the shuffle beside many others of its shard.
      group_cpu: Seconds more for each group of one unit's records of one shard.
      group_shuffled: Bytes more for it.
      record_stored: Bytes of a record in a shard, uncompressed, which `shard_mb` counts.
      result_bytes: Of a finished shard's result, which one task gathers.
      cores: How many work on it.
      shard_mb: As in the spec.
    """

    name: str
    records: float
    input_bytes: float
    passes: float
    unit_records: float
    record_cpu: float
    record_shuffled: float
    group_cpu: float
    group_shuffled: float
    record_stored: float
    result_bytes: float
    cores: int
    shard_mb: float = 128

    @property
    def units(self) -> int:
        """The number of tasks that read."""
        return math.ceil(self.records / self.unit_records)

    @property
    def shards(self) -> int:
        """The number of shards, over all splits."""
        return math.ceil(self.records * self.record_stored / (self.shard_mb * 1e6))

    @property
    def groups(self) -> float:
        """How often a unit has records of a shard, for hashes that fall evenly."""
        return self.units * self.shards * -math.expm1(-self.unit_records / self.shards)

    @property
    def shuffled(self) -> float:
        """Bytes in all."""
        return self.records * self.record_shuffled + self.groups * self.group_shuffled

    @property
    def core_hours(self) -> float:
        """Of all stages but those of a single task."""
        return (self.records * self.record_cpu + self.groups * self.group_cpu) / 3600

    @property
    def dollars(self) -> float:
        """Without storage and requests."""
        hour = VCPU_HOUR + GB_A_VCPU * MEMORY_GB_HOUR
        return self.core_hours * hour + self.shuffled / 1e9 * SHUFFLE_GB


def _photos(name: str, records: float, input_bytes: float, cores: int, shard_mb: float) -> Work:
    return Work(
        *(name, records, input_bytes, 1.6, 500, 3.3e-3),
        *(115, 100e-6, 750, 224 * 224 * 3 + 70, 20_600, cores, shard_mb),
    )


def _clicks(name: str, cores: int, shard_mb: float, block_mb: float = 16) -> Work:
    records, input_bytes = 4e9, 1.3e12
    return Work(
        *(name, records, input_bytes, 3, records * block_mb * 1e6 / input_bytes, 28e-6),
        *(285, 55e-6, 4_200, 652, 132, cores, shard_mb),
    )


WORKS = (
    _photos("ImageNet, 1.28 M images", 1.28e6, 150e9, 32, 128),
    _clicks("Criteo, 4 G rows", 128, 128),
    _clicks("the same, larger shards and blocks", 128, 1_024, 64),
    _photos("1 PB of JPEG", 1e15 / 110e3, 1e15, 4_000, 128),
    _photos("the same, larger shards", 1e15 / 110e3, 1e15, 4_000, 1_024),
)


def _bytes(number: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:,.3g} {unit}"
    return f"{number / 1e3:,.3g} kB"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def rows() -> list[list[str]]:
    """Returns the table: a title and a column for each job."""
    return [
        ["", *(work.name for work in WORKS)],
        ["records", *(f"{work.records / 1e6:,.4g} M" for work in WORKS)],
        ["read, all passes", *(_bytes(work.passes * work.input_bytes) for work in WORKS)],
        ["tasks that read", *(f"{work.units:,}" for work in WORKS)],
        ["shards", *(f"{work.shards:,}" for work in WORKS)],
        ["written before compression", *(_bytes(w.records * w.record_stored) for w in WORKS)],
        ["records of a unit in a shard", *(f"{w.records / w.groups:,.1f}" for w in WORKS)],
        ["shuffled", *(_bytes(work.shuffled) for work in WORKS)],
        ["core hours", *(_short(work.core_hours) for work in WORKS)],
        ["cores", *(f"{work.cores:,}" for work in WORKS)],
        ["hours on them", *(_short(work.core_hours / work.cores) for work in WORKS)],
        ["dollars", *(_short(work.dollars) for work in WORKS)],
        ["results in one task", *(_bytes(work.shards * work.result_bytes) for work in WORKS)],
        ["manifest", *(_bytes(work.shards * SHARD_BYTES) for work in WORKS)],
    ]


def markdown() -> str:
    """Returns the table as docs/scale.md has it."""
    first, *rest = [f"| {' | '.join(row)} |" for row in rows()]
    return "\n".join([first, "|---" * (len(WORKS) + 1) + "|", *rest])


if __name__ == "__main__":
    print(markdown())
