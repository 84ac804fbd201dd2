"""Pairs generated from images of one date and masks of a class, such as building footprints."""
