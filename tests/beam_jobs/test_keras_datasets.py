import importlib
import io
import sys
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from oracle import made_keras
from PIL import Image

from beam_jobs.errors import SpecError
from beam_jobs.sources import keras_datasets


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Callable[[str], object]:
    """Makes a data set where Keras looks for it, and returns Keras' module of it."""
    keras = importlib.import_module("keras")
    home = tmp_path / "keras"
    monkeypatch.setenv("KERAS_HOME", str(home))
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(home))
    # The made files are not those whose hash Keras knows.
    monkeypatch.setattr("keras.src.utils.file_utils.validate_file", lambda *_, **__: True)

    def make(dataset: str) -> object:
        made_keras.write(dataset, home)
        return getattr(keras.datasets, dataset)

    return make


def read(dataset: str) -> dict[str, list]:
    return pa.Table.from_batches(keras_datasets.batches(dataset)).to_pydict()


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def check_splits(found: dict[str, list], train, test) -> None:
    assert len(train) > len(test) > 10
    assert found["split"] == ["train"] * len(train) + ["test"] * len(test)


@pytest.mark.feature("keras.datasets", "mnist", '`dataset = "mnist"`')
@pytest.mark.feature("keras.datasets", "fashion_mnist", '`dataset = "fashion_mnist"`')
@pytest.mark.feature("keras.datasets", "cifar10", '`dataset = "cifar10"`')
@pytest.mark.feature("keras.datasets", "cifar100", '`dataset = "cifar100"`, with its fine labels')
@pytest.mark.parametrize(
    "dataset, width", [("mnist", 1), ("fashion_mnist", 1), ("cifar10", 1), ("cifar100", 2)]
)
def test_images_and_labels_are_those_of_keras(kept, dataset, width):
    (x, y), (x_test, y_test) = kept(dataset).load_data()

    found = read(dataset)

    check_splits(found, y, y_test)
    images, labels = np.concatenate([x, x_test]), np.concatenate([y, y_test]).reshape(-1)
    assert found["label"] == [f"{label:0{width}}" for label in labels.tolist()]
    step = max(1, len(images) // 500)
    assert all((pixels(found["image"][i]) == images[i]).all() for i in range(0, len(images), step))
    names = sorted(set(found["label"]))
    assert [names.index(label) for label in found["label"]] == labels.tolist()  # As a class has it.


@pytest.mark.feature("keras.datasets", "imdb", '`dataset = "imdb"`, as words')
@pytest.mark.feature("keras.datasets", "reuters", '`dataset = "reuters"`, as words')
@pytest.mark.parametrize("dataset, width", [("imdb", 1), ("reuters", 2)])
def test_texts_are_decoded_as_keras_documents_it(kept, dataset, width):
    module = kept(dataset)
    start_char, oov_char, index_from = 1, 2, 3
    (x, y), (x_test, y_test) = module.load_data(
        num_words=sys.maxsize, start_char=start_char, oov_char=oov_char, index_from=index_from
    )
    inverted = {i + index_from: word for word, i in module.get_word_index().items()}
    inverted |= {start_char: "[START]", oov_char: "[OOV]"}
    decoded = [" ".join(inverted[i] for i in sequence) for sequence in [*x, *x_test]]

    found = read(dataset)

    check_splits(found, y, y_test)
    assert found["text"] == [text.removeprefix("[START] ") for text in decoded]
    assert found["label"] == [f"{label:0{width}}" for label in [*y, *y_test]]
    assert "café" in " ".join(found["text"])


@pytest.mark.feature("keras.datasets", "california_housing", '`dataset = "california_housing"`')
def test_housing_has_a_column_for_each_number(kept):
    (x, y), (x_test, y_test) = kept("california_housing").load_data()

    found = read("california_housing")

    check_splits(found, y, y_test)
    columns = [name for name in found if name not in ("label", "split")]
    assert columns == [
        *("MedInc", "HouseAge", "AveRooms", "AveBedrms"),
        *("Population", "AveOccup", "Latitude", "Longitude"),
    ]
    values = np.array([[float(text) for text in found[name]] for name in columns]).T
    assert (values == np.concatenate([x, x_test])).all()
    assert [float(text) for text in found["label"]] == [*y, *y_test]


def test_images_are_the_same_where_keras_prefers_channels_first(kept, monkeypatch):
    (x, _), _ = kept("cifar100").load_data()
    monkeypatch.setattr("keras.src.backend.config._IMAGE_DATA_FORMAT", "channels_first")

    assert (pixels(read("cifar100")["image"][7]) == x[7]).all()


def test_a_word_that_the_index_lacks_is_unknown(kept):
    kept("imdb")
    sequences, index = [[1, 2, 9], [], [2]], {"a": 1, "b": 2}
    assert keras_datasets._texts(sequences, index).to_pylist() == ["a b [OOV]", "", "b"]


def test_without_file_and_network_a_line_says_which_file_and_where(kept, tmp_path, monkeypatch):
    home = tmp_path / "keras"
    home.mkdir()
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # Nobody listens there.
    monkeypatch.setenv("no_proxy", "")

    with pytest.raises(SpecError) as error:
        read("imdb")

    said = str(error.value)
    assert said.startswith("source.dataset: Keras cannot load imdb: ")
    assert f"imdb.npz and imdb_word_index.json in {home}/datasets: put" in said
    assert "\n" not in said
