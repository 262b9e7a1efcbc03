"""Beam jobs that turn raw files into sharded TFRecords with dataset-wide statistics."""
