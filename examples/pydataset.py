"""The same images through a PyDataset and through the pipeline: how many in a second?

    python make_data.py flowers 1000
    headrace run pydataset.toml --output out/pydataset
    python pydataset.py

Takes about 100 s. Prints, of 5,000 photos of some 240x240 pixels, while other programs shared the 4
cores at a load of 10 to 19:

    PyDataset                     388 images/s
    PyDataset, 4 workers          679 images/s
    load()                      3,252 images/s
    load() is 8.4 times as fast, 4.8 times as 4 workers

The pipeline decoded and resized each photo once, before; a PyDataset does it in every epoch.
"""

import math
import time
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from trainer.input_pipeline import load

BATCH_SIZE = 32
EPOCHS = 3


class Flowers(keras.utils.PyDataset):
    """Batches of images that are opened, decoded and resized each time they are asked for."""

    def __init__(self, folder, **options):
        super().__init__(**options)
        self.paths = sorted(Path(folder).glob("*/*.jpg"))
        self.classes = sorted({path.parent.name for path in self.paths})
        self.on_epoch_end()

    def on_epoch_end(self):
        """Shuffles."""
        np.random.default_rng().shuffle(self.paths)

    def __len__(self):
        return math.ceil(len(self.paths) / BATCH_SIZE)

    def __getitem__(self, index):
        paths = self.paths[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]
        images = [Image.open(path).resize((96, 96), Image.Resampling.BILINEAR) for path in paths]
        labels = [self.classes.index(path.parent.name) for path in paths]
        return {"image": np.stack(images)}, np.array(labels)


def rate(name, batches, num_images):
    """Fits a model that is as good as nothing, so that the time is that of the data."""
    image = keras.Input((96, 96, 3), name="image", dtype="uint8")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model({"image": image}, keras.layers.Dense(5, "softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(batches, epochs=1, shuffle=False, verbose=0)  # Both shuffle by themselves.
    start = time.perf_counter()
    model.fit(batches, epochs=EPOCHS, shuffle=False, verbose=0)
    images_per_second = EPOCHS * num_images / (time.perf_counter() - start)
    print(f"{name:22} {images_per_second:10,.0f} images/s")
    return images_per_second


alone = Flowers("data/flowers")
four = Flowers("data/flowers", workers=4, max_queue_size=8)
train = load("out/pydataset", "train", BATCH_SIZE)
before = rate("PyDataset", alone, len(alone.paths))
better = rate("PyDataset, 4 workers", four, len(four.paths))
now = rate("load()", train, len(train) * BATCH_SIZE)
print(f"load() is {now / before:.1f} times as fast, {now / better:.1f} times as 4 workers")
