"""For less memory: images of 800x1333, padded to 800x1344."""

from .full import data, dataloader, lr_multiplier, model, optimizer, train

data.image_size = 800
data.max_size = 1333
data.pad_to = [800, 1344]
train.output_dir = "work_dirs/crowd_detr_fallback"
