"""Cloud-optimised GeoTIFFs."""
