"""Folders on disk and in object storage, and what a run keeps in them."""
