"""A folder of texts as `keras.utils.text_dataset_from_directory` reads it."""

import keras
import numpy as np
import pytest
from oracle.command import headrace

TEXTS = {  # Of one file in each class, so that the label says which it is.
    "arts": "A line.\nAnd another one, with “quotes”, commas\tand tabs.",
    "business": '"quoted", once;',
    "sports": "  white space stays  ",
    "world": "Ünïcödé <br /> 東京 🌍",
}

SPEC = """\
name = "texts"

[source]
format = "text"
records = "files"
paths = ["news"]

[split]
fractions = { train = 1 }

[features]
text = { dtype = "string" }

[label]
expression = "split_part(path, '/', 1)"
type = "class"
"""


@pytest.mark.feature(
    "keras.utils.text_dataset_from_directory", "labels", "`[label] expression` of the path"
)
@pytest.mark.feature(
    "keras.utils.text_dataset_from_directory", "label_mode", '`[label] type`: `"class"`'
)
@pytest.mark.feature(
    "keras.utils.text_dataset_from_directory", "batch_size", "`load(..., batch_size)`"
)
@pytest.mark.feature(
    "keras.utils.text_dataset_from_directory", "follow_links", "links are always followed"
)
@pytest.mark.feature("keras.utils.text_dataset_from_directory", "shuffle", "`Options(training)`")
def test_texts_and_labels_are_those_of_keras(tmp_path):
    from trainer.input_pipeline import Options, load

    for name, text in TEXTS.items():
        (tmp_path / "news" / name).mkdir(parents=True)
        (tmp_path / "news" / name / "1.txt").write_text(text, encoding="utf-8")
    first = tmp_path / "news" / min(TEXTS)
    first.rename(tmp_path / "elsewhere")
    first.mkdir()
    (first / "behind").symlink_to(tmp_path / "elsewhere")
    dataset = keras.utils.text_dataset_from_directory(
        tmp_path / "news", batch_size=len(TEXTS), shuffle=False, follow_links=True, verbose=False
    )
    ((texts, labels),) = dataset
    assert dataset.class_names == sorted(TEXTS)
    assert labels.numpy().tolist() == list(range(len(TEXTS)))

    (tmp_path / "spec.toml").write_text(SPEC)
    done = headrace("run", tmp_path / "spec.toml", "--output", tmp_path / "out", "--quiet")
    assert done.returncode == 0, done.stdout
    ((features, ours),) = load(tmp_path / "out", "train", len(TEXTS), Options(training=False))
    assert sorted(ours.numpy()) == list(range(len(TEXTS)))
    assert features["text"].numpy()[np.argsort(ours)].tolist() == texts.numpy().tolist()
