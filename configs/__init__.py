"""Packaged data: defaults, model cards and weights, the demo pair."""
