"""The input of an image dataset, listed by the workers of a cluster; no Beam in here."""

import functools
import hashlib
import operator
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from beam_jobs.errors import DataError, SpecError
from beam_jobs.job import Job, Unit
from beam_jobs.sources import listing, units
from beam_jobs.sources.listing import Branch
from beam_jobs.sources.units import Fingerprint

_NUM_PARTS = 256
_NUM_GROUPS = 64


class Part(NamedTuple):
    """A part of the input that is listed.

    Attributes:
      number: Its position among the parts.
      units: Its files.
      fingerprint: Of its files.
      matched: How many of its files each path of the spec named.
    """

    number: int
    units: list[Unit]
    fingerprint: Fingerprint
    matched: Mapping[str, int]


class Hashes(NamedTuple):
    """Hashes of some files of a part, uint64, and the file in which all of the part lie."""

    file: str
    hashed: bytes


def parts(job: Job) -> list[tuple[int, list[Branch]]]:
    """Returns the parts of the input, numbered: tasks of some 1 % each, if folders are alike."""
    return list(enumerate(listing.parts(job.spec.source, _NUM_PARTS)))


def list_part(numbered: tuple[int, list[Branch]], job: Job) -> tuple[Part, units.Listing]:
    """Lists a part, and leaves its files where every worker finds them."""
    number, branches = numbered
    found = units.list_part(branches)
    # Named after what it holds: another attempt may find other files.
    digest = hashlib.sha256(b"".join(found.units)).hexdigest()[:16]
    saved = job.save_units(f"listing-{number:05d}-{digest}.arrow", found.units)
    return Part(number, saved, found.fingerprint, found.matched), found


def hashes(part: Part, found: units.Listing) -> Iterator[tuple[tuple[str, int], Hashes]]:
    """Yields the hashes of a part in groups: equal ones of all parts meet in one."""
    if not part.units:
        return
    for name, hashed in found.hashes.items():
        groups = hashed >> np.uint64(64 - _NUM_GROUPS.bit_length() + 1)
        for group in np.unique(groups).tolist():
            yield (name, group), Hashes(part.units[0].file, hashed[groups == group].tobytes())


def check_unique(group: tuple[tuple[str, int], Iterable[Hashes]], job: Job) -> None:
    """Raises a SpecError if two files of a group are one, or have one key."""
    (name, _), pieces = group
    units.check_unique(
        name,
        [
            (np.frombuffer(piece.hashed, np.uint64), functools.partial(job.read_units, piece.file))
            for piece in sorted(pieces)
        ],
    )


def numbered(found: Sequence[Part], job: Job) -> list[Unit]:
    """Returns the units of all parts, and notes the fingerprint of the input.

    Raises:
      SpecError: A path matches nothing.
      DataError: The input is not what it was when the job began.
    """
    try:
        units.check_matched(part.matched for part in found)
    except SpecError as error:
        raise SpecError(f"on {platform.node()}: {error}") from error
    total = functools.reduce(operator.add, (part.fingerprint for part in found))
    state = job.state()
    if state["input_fingerprint"] not in (None, str(total)):
        raise DataError("the input changed while it was listed. Run again when it is complete.")
    job.save_state({**state, "input_fingerprint": str(total)})
    ordered = [unit for part in sorted(found) for unit in part.units]
    return [unit._replace(number=number) for number, unit in enumerate(ordered)]
