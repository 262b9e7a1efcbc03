import pytest
import tensorflow as tf

from trainer import dataset_info
from trainer.errors import DatasetError
from trainer.reading import dataset_errors

_AGE = {"dtype": "float32", "shape": [], "stored_as": "float_list", "normalized": True}


def test_the_last_line_with_words_is_the_reason(tmp_path, write_dataset):
    folder = write_dataset(tmp_path / "data", {"train": [{"age": 1.0}]}, {"age": _AGE}, None)
    info = dataset_info.read(folder)
    message = "a box is too large\nfor {\n  an image\n}\n\t [[{{node}}]]"
    with pytest.raises(DatasetError, match="data: an image. `headrace verify` says"):
        with dataset_errors(info):
            raise tf.errors.InvalidArgumentError(None, None, message)
