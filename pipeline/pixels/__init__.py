"""Arithmetic on arrays of pixels; no files and no geography."""
