"""The last step: counts must meet, then the manifest makes the dataset complete."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from beam_jobs import analysis, dataset_info, files, image_shards, tables
from beam_jobs.errors import DataError
from beam_jobs.image_shards import ImagePlan
from beam_jobs.image_statistics import PixelStatistics
from beam_jobs.job import Job, ShardResult, check_readable
from beam_jobs.saved_transform import SavedTransform
from beam_jobs.shards import ShardInfo
from beam_jobs.tables import Analysis


def commit_table(
    results: Sequence[ShardResult], job: Job, transform: SavedTransform, found: Analysis
) -> None:
    """Publishes a table.

    Raises:
      DataError: A record was lost or written twice.
    """
    summary = found.summary
    features = tables.feature_entries(job.spec, found.statistics)
    statistics = dataset_info.statistics(
        {split: summary.num_examples.get(split, 0) for split in found.num_shards}, summary.columns
    )
    _check_splits(results, summary.num_examples)
    labels = summary.labels.get("train")
    label = None if labels is None else analysis.seen_statistics(labels)
    read, rejected = summary.read, summary.rejected
    _publish(results, job, transform, read, rejected, features, found.classes, statistics, label)


def commit_images(
    results: Sequence[ShardResult],
    job: Job,
    transform: SavedTransform,
    plan: ImagePlan,
    found: PixelStatistics,
) -> None:
    """Publishes an image dataset.

    Raises:
      DataError: An image was lost or written twice, or too many could not be decoded.
    """
    broken = sum((Counter(result.rejected) for result in results), Counter())
    rejected = Counter(plan.counts.rejected) + broken
    check_readable(plan.counts.read, rejected, job.spec, job.output)
    features = image_shards.feature_entries(job.spec, found)
    num_examples: Counter[str] = Counter()
    for result in results:
        num_examples[result.place.split] += result.info.num_examples
    statistics = dataset_info.statistics(num_examples, {})
    _publish(
        results, job, transform, plan.counts.read, rejected, features, plan.classes, statistics
    )


def _check_splits(results: Sequence[ShardResult], expected: Mapping[str, int]) -> None:
    written: Counter[str] = Counter()
    for result in results:
        written[result.place.split] += result.info.num_examples
    if +written != +Counter(expected):
        raise DataError(
            f"{dict(expected)} records were read for the splits, but {dict(written)} written. "
            "Nothing is published. The input may have changed while it was read; run again."
        )


def _publish(
    results: Sequence[ShardResult],
    job: Job,
    transform: SavedTransform,
    read: int,
    rejected: Mapping[str, int],
    features: Mapping[str, Any],
    classes: tuple[str, ...],
    statistics: bytes,
    label_statistics: Mapping[str, Any] | None = None,
) -> None:
    written = sum(result.info.num_examples for result in results)
    if read != written + sum(rejected.values()):
        raise DataError(
            f"{read} records were read, but {written} written and {sum(rejected.values())} "
            "rejected. Nothing is published; please report this."
        )
    shards: dict[str, list[ShardInfo]] = defaultdict(list)
    class_counts: dict[str, Counter[str]] = defaultdict(Counter)
    for result in sorted(results, key=lambda result: result.place):
        shards[result.place.split].append(result.info)
        class_counts[result.place.split].update(result.class_counts)
    fingerprint = job.state()["input_fingerprint"]
    info = dataset_info.manifest(
        job.spec, fingerprint, read, rejected, shards, class_counts, features, classes
    )
    if label_statistics is not None:
        info["label"]["statistics"] = label_statistics
    transform.write(job.output)
    files.write(files.join(job.output, "schema.pbtxt"), dataset_info.schema(info))
    files.write(files.join(job.output, "statistics.pb"), statistics)
    files.write(files.join(job.output, dataset_info.FILE), dataset_info.to_bytes(info))
