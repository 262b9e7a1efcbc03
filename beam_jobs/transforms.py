"""The stages of a job as PTransforms: wiring only."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsIter, AsList, AsSingleton

from beam_jobs import (
    functions,
    halves,
    image_records,
    image_shards,
    image_tables,
    planning,
    progress,
    shuffle,
    strata,
    tables,
    tft_functions,
)
from beam_jobs.config import LABEL
from beam_jobs.image_shards import Counts
from beam_jobs.job import Job, Unit
from beam_jobs.parallel import MapInThreads, StreamInThreads
from beam_jobs.rows import Plan
from beam_jobs.saved_transform import SavedTransform
from beam_jobs.shuffle import Place, Spill
from beam_jobs.sources import blocks, formats
from beam_jobs.sources.listing import File
from beam_jobs.splits import Strata
from beam_jobs.summaries import Summary

_HEADER_THREADS = 2  # Small reads fight for the GIL: four threads take twice as long as one.
_SHARDS_AT_ONCE = 2  # While one is written to disk, the other keeps the cores busy.
_Keyed = tuple[tuple[str, int], Any]  # Said to Beam, so that it needs no general coder for keys.


class _Sum(beam.CombineFn):
    """Adds up values that know how to, sums of as many others, so that each is copied few times."""

    def __init__(self, zero: Any):
        self._zero = zero

    def create_accumulator(self):
        return halves.Sums()

    def add_input(self, sums, element):
        return sums.add(element)

    def merge_accumulators(self, accumulators):
        return functools.reduce(halves.Sums.merge, accumulators, halves.Sums())

    def compact(self, sums):
        return sums.compact()

    def extract_output(self, sums):
        return sums.total(self._zero)


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
        functions.check(self.job.spec)  # Before anything is read: a worker may lack the module.
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
            | "Parts" >> beam.FlatMap(self._parts)
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

    def _parts(self, _: bytes) -> Iterable[Any]:
        functions.check(self.job.spec)
        return planning.parts(self.job)

    def _list(self, numbered: Any) -> Iterable[Any]:
        part, found = planning.list_part(numbered, self.job)
        yield part
        for piece in planning.hashes(part, found):
            yield beam.pvalue.TaggedOutput("hashes", piece)

    def _number(self, parts: list[Any], _: Iterable[None]) -> list[Unit]:
        return planning.numbered(parts, self.job)


@dataclasses.dataclass(eq=False)
class ScanFiles(beam.PTransform):
    """Finds the blocks of the files of a table.

    Input:  PCollection[Unit] of files.
    Output: PCollection[blocks.Unit], numbered in the order of the files.
    """

    job: Job

    def expand(self, units: beam.PCollection) -> beam.PCollection:
        """Checks that the columns of all files go together, on the way."""
        files = units | "Files" >> beam.FlatMap(self._files)
        if self.job.temp_folder is None:
            files |= "SpreadFiles" >> beam.Reshuffle()
        return (
            files
            | "Scan" >> _in_threads(self._scan, self.job)  # blocks.Unit, one a file
            | "List" >> Gather()
            | "Number" >> beam.FlatMap(self._numbered)
            | "Spread" >> beam.Reshuffle()
        )

    def _files(self, unit: Unit) -> list[list[File]]:
        """Returns what is scanned in one go."""
        files = self.job.read_unit(unit)
        return [files] if self.job.spec.source.is_file_a_record else [[file] for file in files]

    def _scan(self, files: list[File]) -> list[blocks.Unit]:
        return formats.scan(files, self.job.spec.source, self.job.block_bytes)

    def _numbered(self, scanned: list[blocks.Unit]) -> list[blocks.Unit]:
        ordered = sorted(scanned, key=lambda unit: unit.file.path)
        units = formats.of(self.job.spec.source).units(ordered)
        return [dataclasses.replace(unit, index=index) for index, unit in enumerate(units)]


@dataclasses.dataclass(eq=False)
class SaveKeys(beam.PTransform):
    """Reads every record for what a stratified split has to know of it.

    Input:  PCollection[blocks.Unit].
    Output: PCollection[strata.Keys].
    """

    job: Job
    plan: Plan

    def expand(self, units: beam.PCollection) -> beam.PCollection:
        """Where a class is cut can be known only when all of it was read."""
        save = functools.partial(tables.save_keys, plan=self.plan, job=self.job)
        return units | "Save" >> _in_threads(save, self.job)


@dataclasses.dataclass(eq=False)
class FindStrata(beam.PTransform):
    """Finds where a stratified split cuts each class.

    Input:  PCollection[strata.Keys] of all records.
    Output: PCollection of one splits.Strata.
    """

    job: Job

    def expand(self, keys: beam.PCollection) -> beam.PCollection:
        """What is gathered says where the keys lie: they are in files."""
        return (
            keys
            | "Gather" >> beam.CombineGlobally(_Sum(strata.Keys()))
            | "Find" >> beam.Map(self._find)
        )

    def _find(self, found: strata.Keys) -> Strata:
        return strata.find(found, self.job.spec, self.job.temp_folder)


@dataclasses.dataclass(eq=False)
class AnalyzeRecords(beam.PTransform):
    """Reads every record and sums up what is asked of train.

    Input:  PCollection[blocks.Unit].
    Output: PCollection of one tables.Analysis.
    """

    job: Job
    plan: Plan
    strata: beam.PCollection | None  # of one splits.Strata

    def expand(self, units: beam.PCollection) -> beam.PCollection:
        """Rejected records are written on the way."""
        cut = [] if self.strata is None else [AsSingleton(self.strata)]
        return (
            units
            | "Summarize" >> _in_threads(self._summarize, self.job, *cut)  # Summary, one a block
            | "Sum" >> beam.CombineGlobally(_Sum(Summary()))
            | "Analyze" >> beam.Map(tables.analyze, self.job, *cut)
        )

    def _summarize(self, unit: blocks.Unit, *cut: Strata) -> Iterable[Summary]:
        return tables.summarize_unit(unit, self.plan, self.job, *cut)


@dataclasses.dataclass(eq=False)
class AnalyzeByTft(beam.PTransform):
    """Reads train once more, for the analyzers of a user's preprocessing_fn.

    Input:  PCollection[blocks.Unit].
    Output: PCollection of one SavedTransform.
    """

    job: Job
    plan: Plan
    analysis: beam.PCollection  # of one tables.Analysis

    def expand(self, units: beam.PCollection) -> beam.PCollection:
        """Statistics of the spec's own features are known by then."""
        statistics = self.analysis | "Statistics" >> beam.Map(lambda found: found.statistics)
        analyze = tft_functions.Analyze(self.job.spec, statistics, self.job.shared_folder)
        batches = _in_threads(self._batches, self.job, AsSingleton(self.analysis))
        # TFT's first steps have side inputs: fused with this one, which has one, too, Beam's runner
        # would wait for itself.
        return units | "Train" >> batches | "Apart" >> beam.Reshuffle() | "Tft" >> analyze

    def _batches(self, unit: blocks.Unit, found: tables.Analysis) -> Iterable[Any]:
        return tables.train_batches(unit, self.plan, found)


@dataclasses.dataclass(eq=False)
class WriteRecords(beam.PTransform):
    """Transforms every record, shuffles them by shard, and writes the shards.

    Input:  PCollection[blocks.Unit].
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

    def _spill(self, unit: blocks.Unit, found: tables.Analysis, transform: SavedTransform) -> Any:
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

    def _place(self, unit: blocks.Unit, found: tables.Analysis, transform: SavedTransform) -> Any:
        for place, batch in tables.place_unit(unit, self.plan, self.job, found, transform):
            yield tuple(place), shuffle.packed(batch)

    def _gather(self, group: tuple[tuple[str, int], Iterable[Any]], found: tables.Analysis) -> Any:
        place, packed = group
        batches = (shuffle.unpacked(data) for data in packed if data is not None)
        result = tables.write_gathered(Place(*place), batches, self.job, found)
        progress.report()
        return [result]


def _empty_places(found: Any) -> list[tuple[tuple[str, int], None]]:
    """Returns a group for each shard: an empty one is a shard, too."""
    return [(tuple(place), None) for place in found.places]


@dataclasses.dataclass(eq=False)
class PlanImages(beam.PTransform):
    """Reads the headers of images and decides which records are kept, and where they go.

    Input:  PCollection[Unit] of files, or PCollection[blocks.Unit] of a table.
    Output: PCollection[RecordBatch] of the kept records, and PCollection of one ImagePlan.
    """

    job: Job
    table: Plan | None

    def expand(self, units: beam.PCollection) -> tuple[beam.PCollection, beam.PCollection]:
        """Rejected records are noted on the way."""
        read = MapInThreads(self._plan, self.job.threads, most=_HEADER_THREADS)
        outcomes = units | "ReadHeaders" >> beam.ParDo(read)
        cut: list[AsSingleton] = []
        if self.job.spec.split.stratified:
            keys = outcomes | "SaveKeys" >> beam.Map(image_shards.save_keys, self.job)
            cut = [AsSingleton(keys | "FindStrata" >> FindStrata(self.job))]
        plan = (
            outcomes
            | "Count" >> beam.Map(Counts.of)
            | "Sum" >> beam.CombineGlobally(_Sum(Counts()))
            | "Plan" >> beam.Map(image_shards.make_plan, self.job, *cut)
        )
        return outcomes | "Kept" >> beam.Map(lambda outcome: outcome.kept), plan

    def _plan(self, unit: Any) -> Iterable[image_records.Outcome]:
        if self.table is not None:
            return image_tables.plan_unit(unit, self.table, self.job)
        spec, earlier = self.job.spec, self.job.earlier
        classes = earlier.classes_of(spec).get(LABEL) if earlier else None
        outcome = image_records.plan(self.job.read_unit(unit), spec, classes)
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
