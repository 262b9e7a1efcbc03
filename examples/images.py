"""An image classifier: folders of flowers, one for each class, and `model.fit`.

    python make_data.py flowers 200
    headrace run images.toml --output out/images
    python images.py

Takes 40 s. Prints an accuracy on test of 1.0 for the made images, which differ in color.
"""

import keras

from trainer.input_pipeline import load

keras.utils.set_random_seed(0)
train = load("out/images", "train", batch_size=32)
test = load("out/images", "test", batch_size=32)

image = keras.Input((96, 96, 3), name="image", dtype="uint8")
x = keras.layers.Rescaling(1 / 255)(image)
for filters in (16, 32, 64):
    x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    x = keras.layers.MaxPooling2D()(x)
x = keras.layers.GlobalAveragePooling2D()(x)
model = keras.Model({"image": image}, keras.layers.Dense(5, "softmax")(x))

model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(train, epochs=5, shuffle=False, verbose=2)  # Shuffled already.
print(f"accuracy on test: {model.evaluate(test, verbose=0)[1]:.3f}")
