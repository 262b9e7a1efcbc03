"""What every feature of a table holds: imputed, transformed in float64, cast once."""

import collections
import dataclasses

import numpy as np

from oracle import moments
from oracle.table import Table

STATISTICAL = ("scale_to_z_score", "scale_to_0_1", "center", "bucketize")


@dataclasses.dataclass
class Feature:
    """One stored feature: a value per record of the table, and what the manifest says of it."""

    values: np.ndarray  # float32, int64 or object (bytes), (num_records,)
    dtype: str
    raw_statistics: dict | None = None
    statistics: dict | None = None
    num_categories: int | None = None
    is_rounded: bool = False  # log1p stands before it: NumPy's last bit may differ
    edges: list = dataclasses.field(default_factory=list)
    vocabulary: list = dataclasses.field(default_factory=list)

    @property
    def stored_as(self) -> str:
        return {"float32": "float_list", "int64": "int64_list", "string": "bytes_list"}[self.dtype]


def buckets(tokens, num_buckets: int) -> np.ndarray:
    """TensorFlow's own hash of each token, modulo num_buckets: int64 (num_tokens,)."""
    import tensorflow as tf

    return tf.strings.to_hash_bucket_fast(tf.constant(list(tokens), tf.string), num_buckets).numpy()


def compute(spec: dict, table: Table) -> dict[str, Feature]:
    """Every feature of the spec and every indicator, by name."""
    in_train = np.array([record.split == "train" for record in table.records])
    found = {}
    for name, options in spec["features"].items():
        key = (options.get("column", name), options["dtype"])
        raw = [record.numbers[key] for record in table.records]
        build = _string if options["dtype"] == "string" else _number
        found[name] = build(options, raw, in_train)
        if options.get("indicator"):
            missing = np.array([value is None for value in raw], np.int64)
            found[f"{name}_missing"] = Feature(missing, "int64")
    return found


def _string(options: dict, raw: list, in_train: np.ndarray) -> Feature:
    missing = options.get("missing", "reject")
    instead = "[MISSING]" if missing == "token" else missing
    tokens = np.array([instead if token is None else token for token in raw], object)
    transform = options.get("transform")
    if transform is None:
        return Feature(np.array([token.encode() for token in tokens], object), "string")
    if transform == "hash_strings":
        hashed = buckets(tokens, options["hash_buckets"])
        return Feature(hashed, "int64", num_categories=options["hash_buckets"])
    words = vocabulary(tokens[in_train], options)
    num_oov = options.get("num_oov_buckets", 1)
    index = {word: i for i, word in enumerate(words)}
    values = len(words) + buckets(tokens, num_oov)
    for i, token in enumerate(tokens):
        values[i] = index.get(token, values[i])
    return Feature(values, "int64", num_categories=len(words) + num_oov, vocabulary=words)


def vocabulary(tokens, options: dict) -> list[str]:
    """The tokens by descending count, ties by ascending UTF-8 bytes, rare ones and the rest cut."""
    counts = collections.Counter(tokens)
    words = sorted(counts, key=lambda token: (-counts[token], token.encode()))
    words = [word for word in words if counts[word] >= options.get("frequency_threshold", 0)]
    return words[: options.get("top_k", len(words))]


def _number(options: dict, raw: list, in_train: np.ndarray) -> Feature:
    dtype = np.int64 if options["dtype"] == "int64" else np.float64
    is_missing = np.array([value is None for value in raw])
    present = np.array(
        [v for v, t in zip(raw, in_train, strict=True) if t and v is not None], dtype
    )
    raw_statistics = moments.moments(moments.counted(present))
    raw_statistics["missing"] = int((is_missing & in_train).sum())
    values = np.array([0 if value is None else value for value in raw], dtype)
    if is_missing.any():
        values = values.astype(np.float64)
        values[is_missing] = _instead(options["missing"], present, raw_statistics)
    chain = options.get("transform", [])
    feature = _transform([chain] if isinstance(chain, str) else chain, values, in_train, options)
    feature.raw_statistics = raw_statistics
    return feature


def _instead(policy, present: np.ndarray, raw_statistics: dict) -> float:
    if policy == "mean":
        return raw_statistics["mean"]
    return float(np.median(present) if policy == "median" else policy)


def _transform(chain: list, values: np.ndarray, in_train: np.ndarray, options: dict) -> Feature:
    statistics, is_rounded = None, False
    for step in chain:
        if step in STATISTICAL:
            statistics = moments.moments(moments.counted(values[in_train]))
        if step == "bucketize":
            edges = moments.edges(values[in_train], options["num_buckets"])
            indices = np.searchsorted(edges, values, side="right").astype(np.int64)
            return Feature(indices, "int64", None, statistics, len(edges) + 1, is_rounded, edges)
        values = _step(step, values, statistics)
        is_rounded |= step == "log1p"
    if values.dtype == np.int64:
        return Feature(values, "int64", None, statistics)
    return Feature(values.astype(np.float32), "float32", None, statistics, None, is_rounded)


def _step(step: str, values: np.ndarray, statistics: dict | None) -> np.ndarray:
    if step == "log1p":
        return np.log1p(values.astype(np.float64))
    if step == "center":
        return values.astype(np.float64) - statistics["mean"]
    if step == "scale_to_z_score":
        return (values.astype(np.float64) - statistics["mean"]) / (statistics["std"] or 1.0)
    low, high = statistics["min"], statistics["max"]  # Python integers where the column is int64.
    if low == high:
        return np.zeros(len(values))
    return (values - low).astype(np.float64) / float(high - low)
