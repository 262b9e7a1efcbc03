"""Where stratified splits begin: every class is cut at hashes that leave each split its share.

A pass of its own leaves 24 bytes a record in files; one task brings them in order on its own disk,
a piece of the range of hashes at a time, and counts up to the limits of each class. So memory stays
flat, and nothing depends on how the records are spread over files, blocks and threads.
"""

import dataclasses
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import pyarrow as pa

from beam_jobs import files, saved_arrays, shuffle, splits
from beam_jobs.config import Spec
from beam_jobs.errors import DataError
from beam_jobs.saved_arrays import SavedArray
from beam_jobs.shuffle import Place, Spill
from beam_jobs.splits import Strata

_PIECE_RECORDS = 1 << 20  # Brought in order together.
_RECORD_BYTES = 24
_COLUMNS = ("class", "first", "last")
_PLACE = Place("strata", 0)


@dataclasses.dataclass(frozen=True)
class Keys:
    """The classes and the hashes of the keys of some records; two of them add up.

    Attributes:
      saved: Each uint64 (3, num_records): the hash of the class, and the halves of the key's.
      classes: The classes that are there.
    """

    saved: tuple[SavedArray, ...] = ()
    classes: frozenset[str] = frozenset()

    def __add__(self, other: "Keys") -> "Keys":
        """Returns those of both together."""
        return Keys(self.saved + other.saved, self.classes | other.classes)


def save(label: pa.StringArray, hashed: np.ndarray, folder: str) -> Keys:
    """Leaves what is known of records in a file of a folder.

    The file is called by its content: a retried task writes the same one.
    """
    if not hashed.size:
        return Keys()
    encoded = label.dictionary_encode()
    classes = encoded.dictionary.to_pylist()
    columns = [_ids(classes)[encoded.indices.to_numpy()], hashed["first"], hashed["last"]]
    array = np.stack([column.astype(np.uint64) for column in columns])
    digest = hashlib.md5(array.tobytes(), usedforsecurity=False).hexdigest()
    path = files.join(folder, f"strata-{digest}{saved_arrays.SUFFIX}")
    return Keys((saved_arrays.save(path, array),), frozenset(classes))


def _ids(classes: Sequence[str]) -> np.ndarray:
    """Returns a number for each class that is the same in all tasks: uint64 (num_classes,)."""
    digests = [hashlib.md5(name.encode(), usedforsecurity=False).digest() for name in classes]
    return np.array([int.from_bytes(digest[:8], "big") for digest in digests], np.uint64)


def find(found: Keys, spec: Spec, folder: str | None) -> Strata:
    """Returns the limits between splits, so that their counts are as near as can be.

    Records with one key never part: where the exact limit would divide such, it is the nearest
    that does not, the later one of two.

    Args:
      found: What `save` left of all records, in any order.
      spec: The spec.
      folder: On a local disk; None for that of temporary files.

    Raises:
      DataError: Records with one key have different classes.
    """
    classes = tuple(sorted(found.classes, key=str.encode))
    shares = splits.cumulated(spec.split.fractions or {})
    inner = list(shares.values())[:-1]
    before = np.zeros(len(classes), np.int64)
    with tempfile.TemporaryDirectory(prefix="headrace-", dir=folder) as temporary:
        spill, num_pieces = Spill(temporary), _num_pieces(found, temporary)
        totals = _spill(found, classes, spill, num_pieces)
        cuts = [[_Cut(share * total) for share in inner] for total in totals]
        for piece in _in_order(spill, num_pieces):
            if spec.split.key_columns is not None:
                _check_keys(piece, classes, spec)
            for position, first in _by_class(piece):
                starts = np.flatnonzero(np.append(True, first[1:] != first[:-1]))
                for cut in cuts[position]:
                    cut.look(before[position] + starts, first[starts])
                before[position] += first.size
    for total, of_class in zip(totals, cuts, strict=True):
        for cut in of_class:  # Behind all records.
            cut.look(np.array([total]), np.array([2**64 - 1], np.uint64))
    ends = [[0, *(cut.count for cut in of), n] for n, of in zip(totals, cuts, strict=True)]
    return Strata(
        tuple(shares),
        classes,
        np.array([[cut.hash for cut in of] for of in cuts], np.uint64).reshape(
            len(cuts), len(inner)
        ),
        np.diff(np.array(ends, np.int64).reshape(-1, len(shares) + 1)),
    )


class _Cut:
    """The place nearest to where a class should be cut, among those seen in ascending order."""

    def __init__(self, wanted: Fraction):
        """Takes how many records should stand before it."""
        self._wanted = wanted
        self.count, self.hash = 0, 0

    def look(self, counts: np.ndarray, hashes: np.ndarray) -> None:
        """Takes places behind those before: the records before each, and the first hash behind."""
        after = int(np.searchsorted(counts, int(self._wanted), side="right"))
        for place in range(max(after - 1, 0), min(after + 1, counts.size)):
            count = int(counts[place])
            if abs(count - self._wanted) <= abs(self.count - self._wanted):
                self.count, self.hash = count, int(hashes[place])


def _num_pieces(found: Keys, folder: str) -> int:
    """Returns into how many pieces the records go, for which a folder must have room."""
    num_records = sum(saved.shape[1] for saved in found.saved)
    shuffle.check_space(folder, _RECORD_BYTES * num_records)
    return max(1, -(-num_records // _PIECE_RECORDS))


def _spill(found: Keys, classes: tuple[str, ...], spill: Spill, num_pieces: int) -> list[int]:
    """Writes all records into pieces of the range of hashes, and returns the size of each class."""
    ids = _ids(classes)
    order = np.argsort(ids)
    totals = np.zeros(len(classes), np.int64)
    for saved in found.saved:
        id_, first, last = saved.load()
        of_class = order[np.searchsorted(ids, id_, sorter=order)]
        totals += np.bincount(of_class, minlength=totals.size)
        pieces = (first >> np.uint64(32)) * np.uint64(num_pieces) >> np.uint64(32)
        batch = pa.record_batch([of_class, first, last], _COLUMNS)
        spill.write(_PLACE, batch, pieces.astype(np.int64))
    return totals.tolist()


def _in_order(spill: Spill, num_pieces: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the columns of each piece; no hash is smaller than one of a piece before."""
    for piece in range(num_pieces):
        batches = list(spill.read(_PLACE, piece))
        spill.remove(_PLACE, piece)
        if batches:
            table = pa.Table.from_batches(batches)
            yield {name: table.column(name).to_numpy() for name in _COLUMNS}


def _by_class(piece: dict[str, np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields each class that is there with its hashes, sorted: the first halves, uint64."""
    order = np.lexsort([piece["first"], piece["class"]])
    first, of_class = piece["first"][order], piece["class"][order]
    found, starts = np.unique(of_class, return_index=True)
    yield from zip(found.tolist(), np.split(first, starts[1:]), strict=True)


def _check_keys(piece: dict[str, np.ndarray], classes: tuple[str, ...], spec: Spec) -> None:
    """Raises a DataError if records with one key have different classes."""
    order = np.lexsort([piece["class"], piece["last"], piece["first"]])
    of_class, first, last = (piece[name][order] for name in _COLUMNS)
    is_same = (first[1:] == first[:-1]) & (last[1:] == last[:-1])
    broken = np.flatnonzero(is_same & (of_class[1:] != of_class[:-1]))
    if broken.size:
        one, other = (classes[int(of_class[broken[0] + i])] for i in (0, 1))
        raise DataError(
            f"split.stratified: records with one {' and '.join(spec.split.key_columns or ())} are "
            f"{one!r} and {other!r}, but stand in one split, so no count per class can be kept. "
            "Give a key whose records are of one class, or leave stratified out."
        )
