"""Geometry of a run: the common grid, tiles, patches, blend weights and the memory they need."""
