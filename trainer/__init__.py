"""Trains Keras models on dataset folders: needs TensorFlow, but no Beam and no TF Transform."""
