"""Who earns more than 50,000 dollars? A CSV file, statistics of train, and `model.fit`.

    python make_data.py adult 10000
    headrace run table.toml --output out/table
    python table.py

Takes 20 s, of which 10 s are imports. Prints an accuracy on test of 0.92 for the made table, and of
0.81 for the real one of 32,561 people, of whom 76 % earn less.
"""

import keras

from trainer import dataset_info
from trainer.input_pipeline import load

keras.utils.set_random_seed(0)
train = load("out/table", "train", batch_size=128)
test = load("out/table", "test", batch_size=128)

# Numbers come with mean 0 and standard deviation 1, texts as their place in the vocabulary.
features = dataset_info.read("out/table").features
inputs, columns = {}, []
for name, feature in features.items():
    inputs[name] = keras.Input((), name=name, dtype=feature.dtype)
    if feature.num_categories:
        columns.append(keras.layers.Embedding(feature.num_categories, 8)(inputs[name]))
    else:
        columns.append(keras.layers.Reshape((1,))(inputs[name]))

x = keras.layers.Concatenate()(columns)
x = keras.layers.Dense(64, "relu")(x)
x = keras.layers.Dense(64, "relu")(x)
model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(x))

model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(train, epochs=5, shuffle=False, verbose=2)  # Shuffled already.
print(f"accuracy on test: {model.evaluate(test, verbose=0)[1]:.3f}")
