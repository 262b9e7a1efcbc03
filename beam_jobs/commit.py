"""The last step: counts must meet, then the manifest makes the dataset complete."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from beam_jobs import analysis, dataset_info, files, image_shards, tables, tft_functions
from beam_jobs.config import LABEL
from beam_jobs.errors import DataError
from beam_jobs.image_shards import ImagePlan
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
    earlier = job.earlier
    if earlier is not None:
        features = earlier.features(job.spec, summary.novelty, [*found.num_shards])
    elif job.spec.preprocessing_fn is not None:
        features = tft_functions.entries(transform)
    else:
        features = tables.feature_entries(job.spec, found.statistics)
    statistics = dataset_info.statistics(
        {split: summary.num_examples.get(split, 0) for split in found.num_shards}, summary.columns
    )
    _check_splits(results, summary.num_examples)
    of_train = {
        name: analysis.seen_statistics(found)
        for (split, name), found in summary.beside.items()
        if split == "train" and name not in summary.classes
    }
    for name, entry in features.items():
        if "vocabulary_file" in entry and earlier is None:
            known = found.statistics[name]
            weights = None if known.idf is None else known.idf.tolist()
            tokens = known.vocabulary or ()
            data = dataset_info.vocabulary(job.spec.columns[name], tokens, weights)
            files.write(files.join(job.output, entry["vocabulary_file"]), data)
    read, rejected = summary.read, summary.rejected
    _publish(results, job, transform, read, rejected, features, found.classes, statistics, of_train)


def commit_images(
    results: Sequence[ShardResult],
    job: Job,
    transform: SavedTransform,
    plan: ImagePlan,
    found: Mapping[str, Any],
) -> None:
    """Publishes an image dataset.

    Raises:
      DataError: An image was lost or written twice, or too many could not be decoded.
    """
    broken = sum((Counter(result.rejected) for result in results), Counter())
    rejected = Counter(plan.counts.rejected) + broken
    check_readable(plan.counts.read, rejected, job.spec, job.output)
    if job.earlier is None:
        features = image_shards.feature_entries(job.spec, found)
    else:
        features = job.earlier.features(job.spec, {}, [])
    num_examples: Counter[str] = Counter()
    for result in results:
        num_examples[result.place.split] += result.info.num_examples
    statistics = dataset_info.statistics(num_examples, {})
    classes = {LABEL: plan.classes}
    _publish(results, job, transform, plan.counts.read, rejected, features, classes, statistics)


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
    classes: Mapping[str, tuple[str, ...]],
    statistics: bytes,
    of_train: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    written = sum(result.info.num_examples for result in results)
    if read != written + sum(rejected.values()):
        raise DataError(
            f"{read} records were read, but {written} written and {sum(rejected.values())} "
            "rejected. Nothing is published; please report this."
        )
    shards: dict[str, list[ShardInfo]] = defaultdict(list)
    class_counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for result in sorted(results, key=lambda result: result.place):
        shards[result.place.split].append(result.info)
        for label, counts in result.class_counts.items():
            class_counts[result.place.split, label].update(counts)
    for name, data in dataset_info.set_apart(features).items():
        files.write(files.join(job.output, name), data)
    fingerprint = job.state()["input_fingerprint"]
    info = dataset_info.manifest(
        job.spec,
        fingerprint,
        read,
        rejected,
        shards,
        class_counts,
        features,
        classes,
        of_train or {},
    )
    if job.earlier is not None:
        info["transform_from"] = {**job.earlier.origin, "digest": job.transform_from}
        info |= {key: job.earlier.info[key] for key in ("label", "labels") if key in info}
        for name, data in job.earlier.beside.items():
            files.write(files.join(job.output, name), data)
    transform.write(job.output)
    files.write(files.join(job.output, "schema.pbtxt"), dataset_info.schema(info))
    files.write(files.join(job.output, "statistics.pb"), statistics)
    files.write(files.join(job.output, dataset_info.FILE), dataset_info.to_bytes(info))
