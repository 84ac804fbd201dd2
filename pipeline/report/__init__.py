"""The report of a run: one HTML page and a picture, made from overviews and the polygon file."""
