"""Small data of the form of the real, so that every example runs as it is.

    python make_data.py cifar10             # 60 images of each class
    python make_data.py flowers 1000        # or 1,000

What stands in data/ already is left alone: put the real thing there, and the examples read it.

    data/cifar10/train/<class>/*.jpg        32x32 pixels; test/ beside it
    data/flowers/<class>/*.jpg              of every size
    data/aclImdb/train/{neg,pos}/*.txt      test/ beside it
    data/adult/adult-train.csv              no header; adult-test.csv has points at line ends
"""

import colorsys
import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
FLOWERS = "daisy dandelion roses sunflowers tulips".split()
GOOD = "wonderful brilliant moving funny charming superb".split()
BAD = "dull awful boring clumsy lifeless dreadful".split()
PLAIN = "the film a story of actors and its music with some scenes plot that ending was".split()
WORK = "Private State-gov Self-emp-not-inc Federal-gov ?".split()
SCHOOL = "HS-grad Some-college Bachelors Masters Doctorate".split()

random = np.random.default_rng(0)


def picture(hue: float, width: int, height: int) -> Image.Image:
    """Draws an ellipse of a color of its own before something gray."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    center, radius = random.uniform(-0.4, 0.4, 2), random.uniform(0.3, 0.7, 2)
    inside = ((x - center[0]) / radius[0]) ** 2 + ((y - center[1]) / radius[1]) ** 2 < 1
    color = colorsys.hsv_to_rgb(hue + random.normal(0, 0.02), 0.7, random.uniform(0.6, 1))
    pixels = np.where(inside[..., None], color, random.uniform(0.2, 0.8))
    pixels = pixels + random.normal(0, 0.06, pixels.shape)
    return Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8))


def write_images(folder: Path, classes: list[str], count: int, smallest: int, largest: int) -> None:
    """Writes `count` JPEG files of each class, with sides from `smallest` to `largest` pixels."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            width, height = random.integers(smallest, largest, 2, endpoint=True).tolist()
            image = picture(label / len(classes), width, height)
            image.save(folder / name / f"{number:05d}.jpg", quality=90)


def write_reviews(folder: Path, count: int) -> None:
    """Writes `count` reviews that are good and as many that are not."""
    for name, words in (("neg", BAD), ("pos", GOOD)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            said = [*random.choice(PLAIN, random.integers(20, 60)), *random.choice(words, 4)]
            text = " ".join(random.permutation(said)).capitalize() + ".<br /><br />10 points?"
            (folder / name / f"{number}_5.txt").write_text(text)


def write_table(path: Path, count: int, end: str = "") -> None:
    """Writes people of whom those earn more who learned longer and work more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        for _ in range(count):
            age, school, hours = random.integers(17, 80), random.integers(5), random.integers(5, 70)
            earned = school * 10 + hours / 2 + age / 4 + random.normal(0, 5)
            row = [age, random.choice(WORK), 0, SCHOOL[school], 9 + school, *["?"] * 5, 0, 0, hours]
            csv.writer(file).writerow([*row, "?", ("<=50K" if earned < 50 else ">50K") + end])


def write(name: str, folder: Path, count: int) -> None:
    """Writes one of the datasets, with `count` images or reviews of a class."""
    if name == "cifar10":
        write_images(folder / "train", CLASSES, count, 32, 32)
        write_images(folder / "test", CLASSES, count // 5, 32, 32)
    elif name == "flowers":
        write_images(folder, FLOWERS, count, 120, 360)
    elif name == "aclImdb":
        write_reviews(folder / "train", count)
        write_reviews(folder / "test", count // 5)
    elif name == "adult":
        write_table(folder / "adult-train.csv", 2 * count)
        write_table(folder / "adult-test.csv", count, end=".")
    else:
        sys.exit(f"make_data.py: must be cifar10, flowers, aclImdb or adult, but is {name!r}.")


def main(name: str, count: str = "60") -> None:
    """Writes a dataset unless it is there."""
    folder = Path("data", name)
    if folder.exists():
        print(f"{folder} is there")
    else:
        write(name, folder, int(count))


if __name__ == "__main__":
    main(*sys.argv[1:])
