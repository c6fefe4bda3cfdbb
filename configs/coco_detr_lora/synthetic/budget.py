"""What the comparison shares: 500 steps on synthetic shapes of ten classes, 4 images of 512x512 a step."""

from ..budget import data, dataloader, init, lr_multiplier, optimizer, train

data.name = "synthetic_coco"
data.root = "datasets/synthetic_coco"
data.image_size = data.max_size = 512
data.total_batch_size = 4
train.max_iter = 500
train.max_batch_per_gpu = None
train.eval_period = 0
train.checkpointer.period = 100
