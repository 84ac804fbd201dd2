"""Scores against labelled scenes."""
