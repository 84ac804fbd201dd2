"""Accuracy of a map and area with its error, from a labelled sample."""
