"""Where pixels belong: the common grid, tiles, patches, blend weights and the memory they need."""
