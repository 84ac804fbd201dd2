"""Helpers of the tests: servers, clusters, stand-ins, scenes and paths."""
