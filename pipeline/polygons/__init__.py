"""Polygons of change, from the probabilities to vector files."""
