"""The project's own synthetic scenes, as `loradet data synthetic` writes them (layout of SARDet-100K)."""

from .sardet100k import data, dataloader

data.name = "synthetic"
data.root = "???"
data.image_size = 256
data.max_size = 256
