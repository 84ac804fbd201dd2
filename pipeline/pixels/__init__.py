"""Arithmetic on arrays of pixels, without files and without geography."""
