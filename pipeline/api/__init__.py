"""Change detection in Python, on xarray arrays."""
