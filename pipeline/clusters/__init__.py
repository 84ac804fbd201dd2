"""Sources of Dask workers."""
