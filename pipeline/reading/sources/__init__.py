"""Dates as people have them: products of satellites, lists of bands, mosaics, STAC items."""
