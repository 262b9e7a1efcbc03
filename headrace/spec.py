"""A spec from Python, and the dataset that comes of it."""

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from beam_jobs import config
from beam_jobs.errors import DataError, SpecError
from trainer import startup

if TYPE_CHECKING:
    import tensorflow as tf

_HERE = "Spec"  # What messages call it, where the command names a file.


@dataclasses.dataclass(frozen=True, repr=False)
class Dataset:
    """A finished dataset.

    Attributes:
      folder: Where it lies.
      info: What its `dataset_info.json` says.
    """

    folder: str
    info: Mapping[str, Any]

    def __repr__(self) -> str:
        """Returns what the command shows in the end."""
        from headrace import console

        return console.summary(dict(self.info), self.folder)

    def load(self, split: str, batch_size: int, **options: Any) -> "tf.data.Dataset":
        """Reads a split as batches, see `trainer.input_pipeline.load`.

        Args:
          split: Its name.
          batch_size: Examples in a batch.
          **options: Those of `trainer.input_pipeline.Options`.
        """
        from trainer import input_pipeline

        made = input_pipeline.Options(**options)
        return input_pipeline.load(self.folder, split, batch_size, made)


class Spec:
    """What a TOML file says, as keyword arguments: tables are dicts, lists of tables lists of them.

    Paths are relative to the current folder.

    Raises:
      SpecError: A rule is broken; one line that says which.
    """

    def __init__(self, **said: Any):
        """Takes name, source, split, filter, features, label and output."""
        self._spec = config.parse_spec(_plain(said), _HERE, learns=False)

    @property
    def model(self) -> config.Spec:
        """What the job knows of it."""
        return self._spec

    @classmethod
    def from_toml(cls, path: str | os.PathLike) -> "Spec":
        """Reads a file; its paths are relative to it.

        Raises:
          SpecError: No such file, no TOML, or a rule is broken; one line that says which.
        """
        spec = cls.__new__(cls)
        spec._spec = config.load_spec(os.fspath(path), learns=False)
        return spec

    def __repr__(self) -> str:
        """Returns what was said."""
        said = self._spec.model_dump(by_alias=True, exclude_defaults=True)
        return f"Spec({', '.join(f'{key}={value!r}' for key, value in said.items())})"

    def run(
        self,
        output: str | os.PathLike,
        *,
        transform_from: str | os.PathLike | None = None,
        overwrite: bool = False,
        runner: str = "local",
        beam_args: Sequence[str] = (),
        workers: int | None = None,
        temp_dir: str | os.PathLike | None = None,
        show: Callable[[str], None] | None = None,
    ) -> Dataset:
        """Does what `headrace run` does.

        Args:
          output: The dataset folder.
          transform_from: A finished dataset whose transform is applied; nothing is learned then.
          overwrite: Whether a dataset of another spec or input may be replaced.
          runner: "local", or a runner of Beam.
          beam_args: Flags for Beam.
          workers: Threads of a worker; None for one a core.
          temp_dir: For the local runner's shuffle; None for the dataset folder.
          show: Takes a line that says how far the job is, every ten seconds: `print`.

        Raises:
          SpecError: The spec does not fit the input, or the folder holds something else.
          DataError: The data or the job failed.
        """
        startup.import_tensorflow()
        import tensorflow as tf

        tf.config.list_logical_devices()  # From here on `run` leaves threads to it as they are.
        from beam_jobs import run

        with _told_in_a_line():
            info = run.run(
                self._spec,
                os.fspath(output),
                runner=runner,
                beam_args=beam_args,
                num_threads=workers,
                temp_dir=None if temp_dir is None else os.fspath(temp_dir),
                overwrite=overwrite,
                transform_from=None if transform_from is None else os.fspath(transform_from),
                show=show,
            )
        return Dataset(os.fspath(output), info)


def _plain(said: Any) -> Any:
    """Returns what TOML would give: paths as texts."""
    if isinstance(said, os.PathLike):
        return os.fspath(said)
    if isinstance(said, Mapping):
        return {key: _plain(value) for key, value in said.items()}
    return [_plain(value) for value in said] if isinstance(said, list | tuple) else said


@contextlib.contextmanager
def _told_in_a_line() -> Iterator[None]:
    """Keeps Beam from logging an error that is raised, and from naming its stage behind it."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    except (SpecError, DataError) as error:
        message = re.sub(r" \[while running '.*'\]", "", str(error))
        raise type(error)(message) from None
    finally:
        logging.disable(before)
