"""A table that asks for what the four specs do not: a spec with functions, lists and groups."""

import json
import random
from pathlib import Path

MODULE = '''\
"""What the spec names."""

import pyarrow.compute as pc
import tensorflow as tf
import tensorflow_transform as tft


def has_pages(batch):
    return pc.greater(batch["pages"], 0)


def steps(inputs):
    """Adds what TFT computes exactly, whatever the order: counts, a smallest and a largest one."""
    return {
        **inputs,
        "browser": tft.compute_and_apply_vocabulary(inputs["browser"], num_oov_buckets=1),
        "share": tft.scale_to_0_1(inputs["seconds"]),
        "is_long": tf.cast(inputs["seconds"] > 0.0, tf.int64),
    }
'''
SPEC = """\
name = "visits"

[source]
format = "jsonl"
paths = @PATHS@

[split]
fractions = { train = 0.7, validation = 0.1, test = 0.2 }
stratified = true
key = "visitor"

[[filter]]
name = "no_pages"
function = "visit_steps:has_pages"
columns = ["pages"]

[features]
seconds = { dtype = "float32", transform = "scale_to_z_score_per_key", key = "browser", \
missing = "mean", indicator = true }
spent   = { dtype = "float32", expression = "seconds / pages", transform = "yeo_johnson", \
missing = "median" }
pages   = { dtype = "int64", transform = "bucketize", num_buckets = 5 }
browser = { dtype = "string", missing = "token" }
both    = { type = "cross", of = ["browser", "pages"], hash_buckets = 50 }
started = { type = "date", parts = ["dayofweek", "month"], cycles = ["day"] }
place   = { type = "vector", column = "place", size = 4, \
transform = ["scale_to_z_score", "pca"], output_dim = 2 }
terms   = { type = "text", column = "query", output_sequence_length = 6, ngrams = 2 }

[label]
column = "goal"

[weight]
column = "weight"

[output]
num_shards = 3
"""
# The same, and behind its features what TFT's own analyzers find.
BY_TFT = SPEC.replace("\n\n", '\npreprocessing_fn = "visit_steps:steps"\n\n', 1)


def write(folder: Path, num_rows: int = 4000) -> list[Path]:
    """Writes the table in five files, and the module where the spec's modules lie."""
    rng = random.Random(4)
    (folder / "visit_steps.py").write_text(MODULE)
    lines = [json.dumps(_row(rng, number), ensure_ascii=False) for number in range(num_rows)]
    lines[77] = '{"visitor": '
    files = [folder / f"visits-{number}.jsonl" for number in range(5)]
    for number, file in enumerate(files):
        file.write_text("".join(f"{line}\n" for line in lines[number::5]))
    return files


def _row(rng: random.Random, number: int) -> dict:
    """One of a visitor's visits; all of a visitor have one goal, as a stratified split wants."""
    visitor = number % 1500
    words = ["red", "Blau", "vélo", "boat", "the", "of", "ship"]
    return {
        "visitor": f"v{visitor}",
        "seconds": None if rng.random() < 0.05 else round(rng.lognormvariate(3, 1), 2),
        "pages": rng.choice([0, 1, 2, 3, 5, 8, 13, 21]),
        "browser": rng.choice(["Firefox", "Chrome", "Safari", None]),
        "started": f"2024-{rng.randint(1, 12):02}-{rng.randint(1, 28):02} {rng.randint(0, 23)}:30",
        "place": [round(rng.gauss(0, scale), 3) for scale in (1, 2, 3, 4)],
        "query": " ".join(rng.choices(words, k=rng.randint(1, 6))),
        "goal": ["buy", "read", "leave"][visitor % 7 % 3],
        "weight": rng.choice([0.5, 1, 2]),
    }
