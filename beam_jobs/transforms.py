"""The stages of a job as PTransforms: wiring only."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsIter, AsList, AsSingleton

from beam_jobs import image_records, image_shards, planning, shuffle, tables
from beam_jobs.image_shards import Counts
from beam_jobs.job import Job, Unit
from beam_jobs.parallel import MapInThreads, StreamInThreads
from beam_jobs.rows import Plan
from beam_jobs.saved_transform import SavedTransform
from beam_jobs.shuffle import Place, Spill
from beam_jobs.sources import csv_files
from beam_jobs.sources.listing import File
from beam_jobs.summaries import Summary

_HEADER_THREADS = 2  # Small reads fight for the GIL: four threads take twice as long as one.
_SHARDS_AT_ONCE = 2  # While one is written to disk, the other keeps the cores busy.
_Keyed = tuple[tuple[str, int], Any]  # Said to Beam, so that it needs no general coder for keys.


class _Sum(beam.CombineFn):
    """Adds up values that know how to."""

    def __init__(self, zero: Any):
        self._zero = zero

    def create_accumulator(self):
        return self._zero

    def add_input(self, accumulator, element):
        return accumulator + element

    def merge_accumulators(self, accumulators):
        return functools.reduce(lambda one, other: one + other, accumulators, self._zero)

    def extract_output(self, accumulator):
        return accumulator


class Gather(beam.PTransform):
    """Puts all elements into one list; Beam's ToList takes 13 steps for it, a tenth of a job's.

    Input:  PCollection[T].
    Output: PCollection of one list[T], in any order; of none where there is no element.
    """

    def expand(self, elements: beam.PCollection) -> beam.PCollection:
        """One key for all: it is for small elements, and few of them."""
        return (
            elements
            | "Key" >> beam.Map(lambda element: (0, element)).with_output_types(tuple[int, Any])
            | "Group" >> beam.GroupByKey()
            | "List" >> beam.MapTuple(lambda _, grouped: list(grouped))
        )


def _in_threads(function: Callable[..., Iterable[Any]], job: Job, *sides: Any) -> beam.ParDo:
    return beam.ParDo(MapInThreads(function, job.threads), *sides)


@dataclasses.dataclass(eq=False)
class ReadListing(beam.PTransform):
    """Reads the listing that the launcher left: in a graph it would be as large as the input.

    Output: PCollection[Unit] of files.
    """

    job: Job

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        """A step less than beam.Create takes."""
        return pipeline | "Impulse" >> beam.Impulse() | "Read" >> beam.FlatMap(self._read)

    def _read(self, _: bytes) -> list[Unit]:
        return self.job.listed()


@dataclasses.dataclass(eq=False)
class ListFiles(beam.PTransform):
    """Lists the input on the workers, and makes sure that no file is there twice.

    Output: PCollection[Unit] of files.
    """

    job: Job

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        """Hashes of all files meet in groups; what is found of each part meets in one task."""
        listed = (
            pipeline
            | "Impulse" >> beam.Impulse()
            | "Parts" >> beam.FlatMap(lambda _: planning.parts(self.job))
            | "Spread" >> beam.Reshuffle()
            | "List" >> beam.FlatMap(self._list).with_outputs("hashes", main="parts")
        )
        checked = (
            listed.hashes
            | "Key" >> beam.Map(lambda keyed: keyed).with_output_types(_Keyed)
            | "Group" >> beam.GroupByKey()
            | "Check" >> beam.Map(planning.check_unique, self.job)
        )
        return (
            listed.parts
            | "Gather" >> Gather()
            | "Number" >> beam.FlatMap(self._number, AsIter(checked))
        )

    def _list(self, numbered: Any) -> Iterable[Any]:
        part, found = planning.list_part(numbered, self.job)
        yield part
        for piece in planning.hashes(part, found):
            yield beam.pvalue.TaggedOutput("hashes", piece)

    def _number(self, parts: list[Any], _: Iterable[None]) -> list[Unit]:
        return planning.numbered(parts, self.job)


@dataclasses.dataclass(eq=False)
class ScanFiles(beam.PTransform):
    """Finds the blocks of CSV files.

    Input:  PCollection[Unit] of files.
    Output: PCollection[csv_files.Unit], numbered in the order of the files.
    """

    job: Job

    def expand(self, units: beam.PCollection) -> beam.PCollection:
        """Checks that all files have the same columns, on the way."""
        files = units | "Files" >> beam.FlatMap(self.job.read_unit)
        if self.job.temp_folder is None:
            files |= "SpreadFiles" >> beam.Reshuffle()
        return (
            files
            | "Scan" >> _in_threads(self._scan, self.job)  # csv_files.Unit, one a file
            | "List" >> Gather()
            | "Number" >> beam.FlatMap(_numbered)
            | "Spread" >> beam.Reshuffle()
        )

    def _scan(self, file: File) -> list[csv_files.Unit]:
        unit = csv_files.scan(file, self.job.spec.source, self.job.block_bytes)
        return [] if unit is None else [unit]


def _numbered(scanned: list[csv_files.Unit]) -> list[csv_files.Unit]:
    ordered = sorted(scanned, key=lambda unit: unit.file.path)
    csv_files.check_columns(ordered)
    units = [unit for whole in ordered for unit in csv_files.units(whole)]
    return [dataclasses.replace(unit, index=index) for index, unit in enumerate(units)]


@dataclasses.dataclass(eq=False)
class AnalyzeRecords(beam.PTransform):
    """Reads every record and sums up what is asked of train.

    Input:  PCollection[csv_files.Unit].
    Output: PCollection of one tables.Analysis.
    """

    job: Job
    plan: Plan

    def expand(self, units: beam.PCollection) -> beam.PCollection:
        """Rejected records are written on the way."""
        summarize = functools.partial(tables.summarize_unit, plan=self.plan, job=self.job)
        return (
            units
            | "Summarize" >> _in_threads(summarize, self.job)  # Summary, one a block
            | "Sum" >> beam.CombineGlobally(_Sum(Summary()))
            | "Analyze" >> beam.Map(tables.analyze, self.job)
        )


@dataclasses.dataclass(eq=False)
class WriteRecords(beam.PTransform):
    """Transforms every record, shuffles them by shard, and writes the shards.

    Input:  PCollection[csv_files.Unit].
    Output: PCollection[ShardResult].
    """

    job: Job
    plan: Plan
    analysis: beam.PCollection  # of one tables.Analysis
    transform: beam.PCollection  # of one SavedTransform

    def expand(self, units: beam.PCollection) -> beam.PCollection:
        """Shuffles through files where there is a disk for all, else through the engine."""
        sides = AsSingleton(self.analysis), AsSingleton(self.transform)
        if self.job.temp_folder is None:
            return self._through_engine(units, *sides)
        return self._through_files(units, *sides)

    def _through_files(self, units: beam.PCollection, analysis: Any, transform: Any) -> Any:
        """Every record is spilled before the first shard is written."""
        spilled = units | "Transform" >> _in_threads(self._spill, self.job, analysis, transform)
        return (
            self.analysis
            | "Places" >> beam.FlatMap(lambda found: found.places)
            | "Spread" >> beam.Reshuffle()
            | "Write" >> _in_threads(self._write, self.job, analysis, AsList(spilled))
        )

    def _spill(
        self, unit: csv_files.Unit, found: tables.Analysis, transform: SavedTransform
    ) -> Any:
        return tables.spill_unit(unit, self.plan, self.job, found, transform, self._files)

    def _write(self, place: Place, found: tables.Analysis, _: list[int]) -> list[Any]:
        return [tables.write_shard(place, self.job, found, self._files)]

    @property
    def _files(self) -> Spill:
        return Spill(self.job.shared_folder)

    def _through_engine(self, units: beam.PCollection, analysis: Any, transform: Any) -> Any:
        """All records of a shard meet in one task, which orders them on its own disk.

        Transformed columns cross the barrier, a fifth of what the Examples are.
        """
        place = beam.ParDo(StreamInThreads(self._place, self.job.threads), analysis, transform)
        batches = units | "Transform" >> place.with_output_types(_Keyed)
        places = self.analysis | "Places" >> beam.FlatMap(_empty_places).with_output_types(_Keyed)
        return (
            (batches, places)
            | "Flatten" >> beam.Flatten()
            | "Group" >> beam.GroupByKey()
            | "Write" >> beam.FlatMap(self._gather, analysis)
        )

    def _place(
        self, unit: csv_files.Unit, found: tables.Analysis, transform: SavedTransform
    ) -> Any:
        for place, batch in tables.place_unit(unit, self.plan, self.job, found, transform):
            yield tuple(place), shuffle.packed(batch)

    def _gather(self, group: tuple[tuple[str, int], Iterable[Any]], found: tables.Analysis) -> Any:
        place, packed = group
        batches = (shuffle.unpacked(data) for data in packed if data is not None)
        return [tables.write_gathered(Place(*place), batches, self.job, found)]


def _empty_places(found: Any) -> list[tuple[tuple[str, int], None]]:
    """Returns a group for each shard: an empty one is a shard, too."""
    return [(tuple(place), None) for place in found.places]


@dataclasses.dataclass(eq=False)
class PlanImages(beam.PTransform):
    """Reads the headers of image files and decides which are kept, and where they go.

    Input:  PCollection[Unit] of files.
    Output: PCollection[RecordBatch] of the kept files, and PCollection of one ImagePlan.
    """

    job: Job

    def expand(self, units: beam.PCollection) -> tuple[beam.PCollection, beam.PCollection]:
        """Rejected files are noted on the way."""
        read = MapInThreads(self._plan, self.job.threads, most=_HEADER_THREADS)
        outcomes = units | "ReadHeaders" >> beam.ParDo(read)
        plan = (
            outcomes
            | "Count" >> beam.Map(Counts.of)
            | "Sum" >> beam.CombineGlobally(_Sum(Counts()))
            | "Plan" >> beam.Map(image_shards.make_plan, self.job)
        )
        return outcomes | "Kept" >> beam.Map(lambda outcome: outcome.kept), plan

    def _plan(self, unit: Unit) -> list[image_records.Outcome]:
        outcome = image_records.plan(self.job.read_unit(unit), self.job.spec)
        lines = image_shards.lines(outcome.rejected)
        self.job.write_rejected(f"{unit.number:05d}.jsonl", lines)
        return [outcome]


@dataclasses.dataclass(eq=False)
class DecodeImages(beam.PTransform):
    """Reads the files of each shard in order, decodes them, and writes it.

    Input:  PCollection[RecordBatch] of the kept files.
    Output: PCollection[ShardResult]; those of float32 images still wait to be normalized.
    """

    job: Job
    plan: beam.PCollection

    def expand(self, kept: beam.PCollection) -> beam.PCollection:
        """Paths are shuffled, never pixels."""
        plan = AsSingleton(self.plan)
        files = kept | "ByPlace" >> beam.FlatMap(image_shards.by_place, plan).with_output_types(
            _Keyed
        )
        places = self.plan | "Places" >> beam.FlatMap(_empty_places).with_output_types(_Keyed)
        return (
            (files, places)
            | "Flatten" >> beam.Flatten()
            | "Group" >> beam.GroupByKey()
            | "List" >> beam.MapTuple(_without_none)
            | "Decode" >> beam.ParDo(MapInThreads(self._decode, _SHARDS_AT_ONCE), plan)
        )

    def _decode(self, group: Any, plan: image_shards.ImagePlan) -> Iterable[Any]:
        place, batches = group
        return image_shards.decode_shard(Place(*place), batches, self.job, plan)


def _without_none(place: Any, batches: Iterable[Any]) -> tuple[Any, list[Any]]:
    return place, [batch for batch in batches if batch is not None]


@dataclasses.dataclass(eq=False)
class NormalizeImages(beam.PTransform):
    """Writes the normalized values of decoded shards.

    Input:  PCollection[ShardResult].
    Output: PCollection[ShardResult].
    """

    job: Job
    plan: beam.PCollection
    statistics: beam.PCollection

    def expand(self, decoded: beam.PCollection) -> beam.PCollection:
        """Statistics are a barrier: every shard of train was decoded before."""
        return decoded | "Normalize" >> _in_threads(
            self._normalize, self.job, AsSingleton(self.plan), AsSingleton(self.statistics)
        )

    def _normalize(self, result: Any, plan: Any, statistics: Any) -> Iterable[Any]:
        return image_shards.normalize_shard(result, self.job, plan, statistics)
