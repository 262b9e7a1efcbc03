"""What the defaults reach on real data."""

import pytest

from trainer import evaluate, train


@pytest.mark.runs("adult-real")
def test_adult_with_defaults(runs, tmp_path):
    run = runs["adult-real"]
    train.train(run.folder, tmp_path, verbose=False)
    result = evaluate.evaluate(tmp_path, run.folder, "test")
    majority = max(run.manifest["splits"]["test"]["class_counts"].values())
    assert majority / result["num_examples"] < 0.78
    assert result["accuracy"] >= 0.85
