"""The product's loader beside a plain read of the same files, and beside the loaders of others.

    python -m benchmarks.loader --data DIR

`headrace run` makes uint8 224x224x3 images of 4,000 photos, uncompressed; a pass is the split
`train`. The limit is a plain sequential read of its shards in pieces of 1 MB, in images a second.
From the page cache that copies at 10 GB/s and more, and a normalized image is four times as many
bytes as a stored one: no loader comes near. `cold` has the system forget the files before each
pass, for both sides; a virtual disk may still have them in its host's memory.

The peers read warm files, as the loader beside them does. grain and WebDataset are measured where
they are installed, with images that were decoded and resized beforehand; Keras' loaders read JPEG.
"""

import importlib.util
import sys
from pathlib import Path

from benchmarks import commands, inputs, measure
from benchmarks.measure import Command, Measurement, Settings, main


def _dataset(settings: Settings) -> tuple[inputs.Input, Path]:
    """Makes photos and a dataset of them, and returns both folders."""
    source = inputs.photos(settings.data, settings.work, settings.sized(4_000, 96))
    command = commands.headrace(inputs.images_spec(source, 224, "uint8"), source.num_records)
    measure.run_once(command)
    if not command.output:
        raise ValueError("headrace run must have an output.")
    return source, command.output


def _loader(name: str, *arguments: str) -> Command:
    return Command((sys.executable, "-m", f"benchmarks.peers.loader_{name}", *arguments))


def _beside_read(settings: Settings, *options: str) -> Measurement:
    source, folder = _dataset(settings)
    names = ["read", "tfrecord", "uint8", "normalized", "normalized_in_map"]
    sides = measure.in_turn(
        {name: _loader("headrace", name, str(folder), *options) for name in names},
        settings.rounds,
    )
    figures = {f"{name} images/s": side.printed_rate for name, side in sides.items()}
    for name in "uint8", "normalized":
        figures[f"{name} of the plain read"] = sides[name].printed_rate / sides["read"].printed_rate
    figures["normalized of tfrecord"] = (
        sides["normalized"].printed_rate / sides["tfrecord"].printed_rate
    )
    measure.remove(folder)
    return Measurement(f"train of {source.num_records:,} photos, 224x224 uint8", sides, figures)


def warm(settings: Settings) -> Measurement:
    """Files in the page cache."""
    return _beside_read(settings)


def cold(settings: Settings) -> Measurement:
    """Files that the system was told to forget before each pass."""
    return _beside_read(settings, "--cold")


def peers(settings: Settings) -> Measurement:
    """The loaders of others, which normalize as ours does."""
    source, folder = _dataset(settings)
    loaders = {
        "headrace": _loader("headrace", "normalized", str(folder)),
        "headrace uint8": _loader("headrace", "uint8", str(folder)),
    }
    for name in "directory", "generator", "pydataset":
        loaders[name] = _loader("keras", name, str(source.path))
    written = folder.with_name("loader-peers")
    written.mkdir(exist_ok=True)
    if _has("grain", "array_record"):
        loaders["grain"] = _loader("grain", str(folder), str(written / "train.array_record"))
    if _has("webdataset"):
        loaders["webdataset"] = _loader("webdataset", str(folder), str(written))
    sides = measure.in_turn(loaders, settings.rounds)
    figures = {f"{name} images/s": side.printed_rate for name, side in sides.items()}
    for name in list(loaders)[2:]:
        figures[f"times {name}"] = sides["headrace"].printed_rate / sides[name].printed_rate
    for path in folder, written:
        measure.remove(path)
    return Measurement(f"{source.num_records:,} photos to 224x224 float32", sides, figures)


def _has(*modules: str) -> bool:
    missing = [name for name in modules if not importlib.util.find_spec(name)]
    for name in missing:
        print(f"{name} is not installed: not measured.")
    return not missing


if __name__ == "__main__":
    sys.exit(main("loader", __doc__, [warm, cold, peers]))
