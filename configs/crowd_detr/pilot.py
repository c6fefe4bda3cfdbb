"""The pilot: 10 training and 10 validation images, one epoch, speed on a few batches, else all as in the full run."""

from .full import data, dataloader, lr_multiplier, model, optimizer, train

data.max_images.train = 10
data.max_images.val = 10
train.max_iter = "1 epochs"
train.efficiency.steps, train.efficiency.warmup = 5, 1
train.output_dir = "work_dirs/crowd_detr_pilot"
