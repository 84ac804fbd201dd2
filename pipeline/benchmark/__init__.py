"""Measurements of this machine: its network, its limits, and the whole way from pair to products."""
