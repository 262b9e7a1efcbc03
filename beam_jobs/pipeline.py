"""The whole graph of a job on one screen."""

from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsSingleton

from beam_jobs import commit, image_analysis, image_preprocessing, image_shards, tables
from beam_jobs.job import Job
from beam_jobs.rows import Plan
from beam_jobs.transforms import (
    AnalyzeByTft,
    AnalyzeRecords,
    DecodeImages,
    FindStrata,
    Gather,
    ListFiles,
    NormalizeImages,
    PlanImages,
    ReadListing,
    SaveKeys,
    ScanFiles,
    WriteRecords,
)


def build_table(pipeline: beam.Pipeline, plan: Plan, job: Job) -> None:
    """Adds the job of a table: records are read twice, and cross no barrier but the shuffle.

    A stratified split takes one more pass.
    """
    units = pipeline | "ReadListing" >> ReadListing(job) | "ScanFiles" >> ScanFiles(job)
    strata = None
    if job.spec.split.stratified:
        keys = units | "SaveKeys" >> SaveKeys(job, plan)
        strata = keys | "FindStrata" >> FindStrata(job)
    analysis = units | "AnalyzeRecords" >> AnalyzeRecords(job, plan, strata)
    if job.spec.preprocessing_fn is None or job.transform_from is not None:
        transform = analysis | "TraceTransform" >> beam.Map(tables.trace_transform, job)
    else:
        transform = units | "AnalyzeByTft" >> AnalyzeByTft(job, plan, analysis)
    shards = units | "WriteRecords" >> WriteRecords(job, plan, analysis, transform)
    _commit(shards, job, commit.commit_table, transform, analysis)


def build_images(pipeline: beam.Pipeline, job: Job, table: Plan | None = None) -> None:
    """Adds the job of an image dataset: every file is decoded once, by the task of its shard.

    Args:
      pipeline: The graph.
      job: The job.
      table: How the table is read that says of the images; None where they lie in folders.
    """
    if table is None:
        units = pipeline | (ReadListing(job) if job.temp_folder else ListFiles(job))
        units |= "Spread" >> beam.Reshuffle()
    else:
        units = pipeline | "ReadListing" >> ReadListing(job) | "ScanFiles" >> ScanFiles(job)
    kept, plan = units | "PlanImages" >> PlanImages(job, table)
    shards = kept | "DecodeImages" >> DecodeImages(job, plan)
    statistics = (
        shards
        | "ListDecoded" >> Gather()
        | "Statistics" >> beam.Map(image_analysis.statistics, job)
    )
    transform = statistics | "TraceTransform" >> beam.Map(image_preprocessing.trace_transform, job)
    if image_shards.need_statistics(job):
        shards = shards | "NormalizeImages" >> NormalizeImages(job, plan, statistics)
    _commit(shards, job, commit.commit_images, transform, plan, statistics)


def _commit(shards: beam.PCollection, job: Job, publish: Any, *found: beam.PCollection) -> None:
    """Publishes the dataset when everything else of it is in place."""
    (
        shards
        | "ListShards" >> Gather()
        | "Commit" >> beam.Map(publish, job, *map(AsSingleton, found))
    )
