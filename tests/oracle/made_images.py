"""Image folders made in code: JPEG and PNG of many sizes, and files that are no images."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZES = [
    (300, 200),
    (200, 300),
    (224, 224),
    (225, 224),
    (501, 333),
    (97, 80),
    (60, 400),
    (640, 481),
]
ORIENTATION = 0x0112  # The EXIF tag.


def picture(rng: np.random.Generator, width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Smooth colors with some noise, as in a photograph."""
    small = rng.integers(0, 256, (5, 6, len(mode) if mode != "L" else 1), np.uint8).squeeze()
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.integers(-12, 13, np.asarray(image).shape)
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def write_cifar10(root: Path, num_train: int = 40, num_test: int = 12) -> Path:
    """Writes root/<split>/<class>/<file>, 32 x 32; `ship` stands in test alone. Returns root."""
    rng = np.random.default_rng(3)
    for split, num_images in (("train", num_train), ("test", num_test)):
        for name in CLASSES if split == "test" else [c for c in CLASSES if c != "ship"]:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(num_images):
                mode = "L" if i == 3 else "RGB"
                subsampling = i % 3  # 4:4:4, 4:2:2 and 4:2:0.
                file = folder / f"{i:04d}.jpg"
                picture(rng, 32, 32, mode).save(file, "JPEG", quality=90, subsampling=subsampling)
            picture(rng, 32, 32).save(folder / "really_a_png.jpg", "PNG")
    whole = (root / "train/cat/0000.jpg").read_bytes()
    (root / "train/cat/cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (root / "train/dog/empty.jpg").write_bytes(b"")
    (root / "test/dog/Thumbs.db").write_bytes(b"no image at all")
    (root / "test/dog/.DS_Store").write_bytes(b"no record")
    return root


def write_photos(folder: Path, num_photos: int = 24) -> Path:
    """Writes n<number>_<class>.JPEG of every size, some turned, gray, or PNG. Returns folder."""
    rng = np.random.default_rng(4)
    folder.mkdir(parents=True)
    for i in range(num_photos):
        width, height = SIZES[i % len(SIZES)]
        image = picture(rng, width, height, "L" if i % 11 == 5 else "RGB")
        file = folder / f"n{i:08d}_class {i % 7} of_é.JPEG"
        exif = Image.Exif()
        if i % 5 == 1:
            exif[ORIENTATION] = 2 + i % 7
        kind = "PNG" if i % 11 == 7 else "JPEG"
        image.save(file, kind, exif=exif, quality=92, progressive=i % 3 == 0)
    picture(rng, 50, 50).save(folder / "no_class.JPEG")
    (folder / "n1_text.JPEG").write_bytes(b"GIF? no.")
    picture(rng, 50, 50).save(folder / "n2_another ending.jpg")
    return folder
