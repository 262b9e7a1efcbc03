"""The whole graph of a job on one screen."""

from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import tensorflow_transform.beam as tft_beam
from apache_beam.pvalue import AsList, AsSingleton

from beam_jobs import commit, image_preprocessing, image_shards, preprocessing
from beam_jobs.job import Job
from beam_jobs.rows import Plan
from beam_jobs.sources.listing import File
from beam_jobs.transforms import (
    AnalyzeRecords,
    ComputeTransform,
    DecodeImages,
    Gather,
    NormalizeImages,
    PlanImages,
    ScanFiles,
    WriteRecords,
)

_FILES_PER_UNIT = 500


def build_table(pipeline: beam.Pipeline, files: Sequence[File], plan: Plan, job: Job) -> None:
    """Adds the job of a table: records are read twice, and cross no barrier but the shuffle."""
    units = (
        pipeline | "Files" >> beam.Create(files, reshuffle=False) | "ScanFiles" >> ScanFiles(job)
    )
    analysis = units | "AnalyzeRecords" >> AnalyzeRecords(job, plan)
    statistics = analysis | "Statistics" >> beam.Map(lambda found: found.statistics)
    transform_fn = pipeline | "ComputeTransform" >> ComputeTransform(
        preprocessing.preprocessing_fn(job.spec, statistics), preprocessing.feature_spec(job.spec)
    )
    shards = units | "WriteRecords" >> WriteRecords(job, plan, analysis, transform_fn[0])
    _commit(pipeline, shards, transform_fn, job, commit.commit_table, analysis)


def build_images(pipeline: beam.Pipeline, files: Sequence[File], job: Job) -> None:
    """Adds the job of an image dataset: every file is decoded once, by the task of its shard."""
    starts = range(0, len(files), _FILES_PER_UNIT)
    for index, start in enumerate(starts):  # Millions of files do not fit into a pipeline's graph.
        job.save_listing(index, files[start : start + _FILES_PER_UNIT])
    units = pipeline | "Units" >> beam.Create(range(len(starts)), reshuffle=False)
    kept, plan = units | "Spread" >> beam.Reshuffle() | "PlanImages" >> PlanImages(job)
    shards = kept | "DecodeImages" >> DecodeImages(job, plan)
    statistics = (
        shards | "ListDecoded" >> Gather() | "Statistics" >> beam.Map(image_shards.statistics, job)
    )
    transform_fn = pipeline | "ComputeTransform" >> ComputeTransform(
        image_preprocessing.preprocessing_fn(job.spec, statistics),
        image_preprocessing.feature_spec(job.spec),
    )
    if job.spec.image[1].store == "float32":
        shards = shards | "NormalizeImages" >> NormalizeImages(job, plan, statistics)
    _commit(pipeline, shards, transform_fn, job, commit.commit_images, plan, statistics)


def _commit(
    pipeline: beam.Pipeline,
    shards: beam.PCollection,
    transform_fn: Any,
    job: Job,
    publish: Any,
    *found: beam.PCollection,
) -> None:
    """Publishes the dataset when everything else of it is in place."""
    written = transform_fn | "WriteTransformFn" >> tft_beam.WriteTransformFn(job.output)
    (
        shards
        | "ListShards" >> Gather()
        | "Commit"
        >> beam.Map(publish_after, publish, job, AsList(written), *map(AsSingleton, found))
    )


def publish_after(results: Any, publish: Any, job: Job, _: Any, *found: Any) -> None:
    """Calls `publish`; the transform_fn, a side input, was written before."""
    publish(results, job, *found)
