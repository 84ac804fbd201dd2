"""The computation of tiles, in this process and on workers."""
