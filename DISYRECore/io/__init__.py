"""Images and files: reading, writing, grids, labels."""
