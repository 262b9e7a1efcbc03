"""Small image datasets whose records say which file they come from."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from beam_jobs.config import load_spec
from beam_jobs.run import run
from oracle import records

SPEC = """\
name = "steps"

[source]
format = "images"
paths = ["images"]

[split]
directory = true

[features.image]
{options}

[label]
pattern = '(?P<label>\\d+)\\.\\w+$'

[output]
num_shards = 2
{output}
"""
NUM_TRAIN, NUM_TEST = 40, 8
_DTYPES = {"uint8": "<u1", "float32": "<f4", "bfloat16": "<u2"}


def smooth(rng: np.random.Generator, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Pixels that have something to do with their neighbors: uint8 (height, width, channels)."""
    coarse = rng.integers(0, 256, (height // 3 + 2, width // 3 + 2, channels))
    fine = np.kron(coarse, np.ones((3, 3, 1)))[:height, :width]
    return np.clip(fine + rng.normal(0, 12, fine.shape), 0, 255).astype(np.uint8)


def write(folder: Path, pictures: list[np.ndarray], suffix: str = "png", **options) -> list[Path]:
    """Writes the first NUM_TRAIN pictures as the split train, and the others as test."""
    paths = []
    for number, pixels in enumerate(pictures):
        split = "train" if number < NUM_TRAIN else "test"
        path = folder / "images" / split / f"{number:03d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
        Image.fromarray(image).save(path, **options)
        paths.append(path)
    return paths


@dataclasses.dataclass
class Stored:
    """A finished dataset: what is stored of each file, by the number in its name."""

    folder: Path
    manifest: dict
    values: dict[int, bytes]

    @property
    def feature(self) -> dict:
        return self.manifest["features"]["image"]

    def array(self) -> np.ndarray:
        """All that is stored, in the order of the files, as (num_files, *shape)."""
        dtype = _DTYPES[self.feature["dtype"]]
        flat = [np.frombuffer(self.values[number], dtype) for number in sorted(self.values)]
        return np.stack(flat).reshape(-1, *self.feature["shape"])

    def files(self) -> list[bytes]:
        """All that is stored, in the order of the files."""
        return [self.values[number] for number in sorted(self.values)]


def read(folder: Path) -> Stored:
    """Reads a dataset of one image feature, `image`, whose classes are numbers."""
    manifest = json.loads((folder / "dataset_info.json").read_text())
    values = {}
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            columns = records.parsed(folder / shard["file"], {"image": "string", "label": "int64"})
            for label, data in zip(columns["label"], columns["image"], strict=True):
                values[int(manifest["label"]["classes"][label])] = data
    return Stored(folder, manifest, values)


def made_once(folder: Path, options: Mapping[str, str]) -> Callable[[str], Stored]:
    """Returns what gives the dataset with these options of its image, by name, made once.

    Args:
      folder: Where the images lie, and the datasets will.
      options: Name -> lines of the spec's [features.image].
    """

    @functools.cache
    def dataset(name: str) -> Stored:
        spec, out = folder / f"{name}.toml", folder / f"out-{name}"
        spec.write_text(SPEC.format(options=options[name], output=""))
        run(load_spec(str(spec)), str(out))
        return read(out)

    return dataset


def served(folder: Path, paths: list[Path], batch_size: int = 7) -> list[np.ndarray]:
    """What transform_fn makes of each file."""
    import tensorflow as tf

    transform_fn = tf.saved_model.load(str(folder / "transform_fn")).transform_fn
    found: list[np.ndarray] = []
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        orientations = [Image.open(path).getexif().get(0x0112, 1) for path in batch]
        files = tf.constant([path.read_bytes() for path in batch])
        inputs = {"image": files, "image_orientation": tf.constant(orientations, tf.int64)}
        found += list(transform_fn(inputs)["image"].numpy())
    return found
