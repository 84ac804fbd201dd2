"""Runs over lists of pairs."""
