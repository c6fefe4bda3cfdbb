"""One's own COCO files, registered as Detectron2's tutorial does it; the folder is $DETECTRON2_DATASETS."""

import os

from detectron2.data.datasets import register_coco_instances
from detectron2.model_zoo import get_config

for _split in ("train", "val"):
    register_coco_instances(
        f"scenes_{_split}",
        {},
        f"{os.environ['DETECTRON2_DATASETS']}/Annotations/{_split}.json",
        f"{os.environ['DETECTRON2_DATASETS']}/JPEGImages/{_split}",
    )

dataloader = get_config("common/data/coco.py").dataloader
dataloader.train.dataset.names = "scenes_train"
dataloader.train.mapper.use_instance_mask = False
dataloader.train.mapper.augmentations[0].short_edge_length = (48, 64)
dataloader.train.total_batch_size = 2
dataloader.train.num_workers = 0
dataloader.test.dataset.names = "scenes_val"
dataloader.test.mapper.augmentations[0].short_edge_length = 64
dataloader.test.num_workers = 0

optimizer = get_config("common/optim.py").SGD
optimizer.lr = 0.001
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_1x

train = get_config("common/train.py").train
train.max_iter = 4
train.eval_period = 2
train.log_period = 1
train.checkpointer.period = 4
