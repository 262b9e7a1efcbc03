"""What goes wrong while a dataset is read, in one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from trainer import input_pipeline
from trainer.dataset_info import DatasetInfo
from trainer.errors import DatasetError

# Of others the dataset knows nothing: memory, a full disk, another host that stopped.
_OF_DATA = (
    tf.errors.DataLossError,
    tf.errors.FailedPreconditionError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.OutOfRangeError,
)
_OF_DAMAGE = (tf.errors.DataLossError, tf.errors.FailedPreconditionError, tf.errors.NotFoundError)


@contextmanager
def dataset_errors(info: DatasetInfo) -> Iterator[None]:
    """Turns TensorFlow's errors about what was read into one line that names the dataset."""
    try:
        yield
    except tf.errors.OpError as error:
        text = str(error.message)
        found = re.search(r"assertion failed: \[(.*?)\](?:\s|$)", text, re.DOTALL)  # One of ours.
        if found:
            raise DatasetError(f"{info.directory}: {found[1]}") from error
        damage = _damage(info) if isinstance(error, _OF_DAMAGE) else None
        if damage:
            raise DatasetError(f"{damage}. Run `headrace run` with --overwrite.") from error
        message = re.findall(r".*\w.*", text.partition("\n\t [[")[0])  # Else brackets alone.
        reason = message[-1].strip() if message else error
        if not isinstance(error, _OF_DATA):
            raise DatasetError(f"TensorFlow cannot go on: {reason}.") from error
        raise DatasetError(
            f"{info.directory}: {reason}. `headrace verify` says whether a shard is damaged."
        ) from error


def _damage(info: DatasetInfo) -> str | None:
    """Says which shard is damaged, and where: the error itself names no file."""
    found = (input_pipeline.find_damage(info, split) for split in info.splits)
    return next(filter(None, found), None)
