"""Keras networks for one kind of feature each, made of Keras' own layers and operations only."""
