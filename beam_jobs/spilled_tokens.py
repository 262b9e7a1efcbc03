"""Counts of the texts of columns on a local disk, so that memory holds a part of them at a time.

A block with many distinct texts in a column leaves their counts in files, by a hash of the text. Of
each file only those come back that can be in a vocabulary: without `top_k` or
`frequency_threshold` all of them.
"""

import concurrent.futures
import dataclasses
from collections.abc import Mapping

import pyarrow as pa

from beam_jobs import sql
from beam_jobs.config import MISSING_TOKEN, Column, Spec
from beam_jobs.counts import TokenCounts
from beam_jobs.shuffle import Place, Spill
from beam_jobs.summaries import Summary, token_columns

_MOST_IN_MEMORY = 4_096  # Distinct texts of a block that go on as they are.
_NUM_BUCKETS = 16
_NAMES = ["token", "count"]


def spill(summary: Summary, spec: Spec, folder: str) -> Summary:
    """Leaves the counts of columns with many distinct texts in a folder, and returns the rest.

    Args:
      summary: Of a block.
      spec: The spec.
      folder: On a local disk; the same for all blocks.
    """
    rest = dict(summary.tokens)
    for place, column in _places(spec).items():
        if column in rest and len(rest[column].tokens) > _MOST_IN_MEMORY:
            _write(Spill(folder), place, rest.pop(column))
    return dataclasses.replace(summary, tokens=rest)


def gather(summary: Summary, spec: Spec, folder: str, threads: int) -> Summary:
    """Returns the sum of all blocks with what vocabularies need of the counts that were spilled.

    Args:
      summary: What `spill` returned of each block, added up.
      spec: The spec.
      folder: Where `spill` left files, which are removed.
      threads: How many columns are worked on at a time.
    """
    files, tokens = Spill(folder), dict(summary.tokens)

    def gathered(place: Place, column: str) -> TokenCounts | None:
        if not files.size_bytes(place, _NUM_BUCKETS):
            return None
        if column in tokens:  # Of blocks with few, a text may be in those of many.
            _write(files, place, tokens[column])
        wanted, parts = _wanted(spec, column), []
        for bucket in range(_NUM_BUCKETS):
            counts = [TokenCounts(*batch.columns) for batch in files.read(place, bucket)]
            files.remove(place, bucket)
            if counts:
                parts.append(TokenCounts.sum(counts).candidates(*wanted))
        return TokenCounts.sum(parts)

    places = _places(spec)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        counted = pool.map(gathered, places, places.values())
        found = zip(places.values(), counted, strict=True)
        tokens |= {column: counts for column, counts in found if counts is not None}
    return dataclasses.replace(summary, tokens=tokens)


def _places(spec: Spec) -> Mapping[Place, str]:
    """Returns where the counts of each column go."""
    columns = sorted(token_columns(spec))
    return {Place("tokens", index): column for index, column in enumerate(columns)}


def _write(files: Spill, place: Place, counts: TokenCounts) -> None:
    batch = pa.record_batch([counts.tokens, counts.counts], _NAMES)
    # The hash of this process' DuckDB: nothing is left of it when the texts are together again.
    hashed = sql.query(f"SELECT (hash(token) % {_NUM_BUCKETS})::BIGINT AS bucket FROM block", batch)
    files.write(place, batch, hashed.column("bucket").to_numpy())


def _wanted(spec: Spec, column: str) -> tuple[list[tuple[int, int | None]], list[str]]:
    """Returns what `TokenCounts.candidates` must leave for the features of a column."""
    least_and_most, fills = [], []
    for feature in spec.columns.values():
        if not isinstance(feature, Column) or feature.column != column:
            continue
        if feature.last_step == "compute_and_apply_vocabulary":
            least_and_most.append((feature.frequency_threshold or 1, feature.top_k))
        if feature.missing == "mode":
            least_and_most.append((1, 1))
        elif feature.missing != "reject":
            fills.append(MISSING_TOKEN if feature.missing == "token" else str(feature.missing))
    return least_and_most, fills
