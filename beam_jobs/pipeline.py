"""The whole graph of a job on one screen."""

from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsSingleton

from beam_jobs import commit, image_preprocessing, image_shards, tables
from beam_jobs.job import Job
from beam_jobs.rows import Plan
from beam_jobs.transforms import (
    AnalyzeRecords,
    DecodeImages,
    Gather,
    ListFiles,
    NormalizeImages,
    PlanImages,
    ReadListing,
    ScanFiles,
    WriteRecords,
)


def build_table(pipeline: beam.Pipeline, plan: Plan, job: Job) -> None:
    """Adds the job of a table: records are read twice, and cross no barrier but the shuffle."""
    units = pipeline | "ReadListing" >> ReadListing(job) | "ScanFiles" >> ScanFiles(job)
    analysis = units | "AnalyzeRecords" >> AnalyzeRecords(job, plan)
    transform = analysis | "TraceTransform" >> beam.Map(tables.trace_transform, job)
    shards = units | "WriteRecords" >> WriteRecords(job, plan, analysis, transform)
    _commit(shards, job, commit.commit_table, transform, analysis)


def build_images(pipeline: beam.Pipeline, job: Job) -> None:
    """Adds the job of an image dataset: every file is decoded once, by the task of its shard."""
    units = pipeline | (ReadListing(job) if job.temp_folder else ListFiles(job))
    kept, plan = units | "Spread" >> beam.Reshuffle() | "PlanImages" >> PlanImages(job)
    shards = kept | "DecodeImages" >> DecodeImages(job, plan)
    statistics = (
        shards | "ListDecoded" >> Gather() | "Statistics" >> beam.Map(image_shards.statistics, job)
    )
    transform = statistics | "TraceTransform" >> beam.Map(image_preprocessing.trace_transform, job)
    if job.spec.image[1].store == "float32":
        shards = shards | "NormalizeImages" >> NormalizeImages(job, plan, statistics)
    _commit(shards, job, commit.commit_images, transform, plan, statistics)


def _commit(shards: beam.PCollection, job: Job, publish: Any, *found: beam.PCollection) -> None:
    """Publishes the dataset when everything else of it is in place."""
    (
        shards
        | "ListShards" >> Gather()
        | "Commit" >> beam.Map(publish, job, *map(AsSingleton, found))
    )
