"""Tests of the engines, and what stands in for those that are not on this machine."""
