"""The study in miniature: the project's small pretrained backbone on synthetic SAR-like scenes, 192 pixels wide.

Experiments differ in `model.backbone.bottom_up` alone. Neck and head start from `pretrain_quickstart`, as the backbone
does. About two minutes on one CPU core.
"""

from ...quickstart import data, dataloader, lr_multiplier, model, optimizer, train

data.name = "sar_lora_dino_mini"
data.root = "datasets/synthetic_mini"
train.max_iter = 200
train.eval_period = 100
train.eval_splits = ["val", "test"]
train.checkpointer.period = 100
train.checkpointer.max_to_keep = 1
train.output_dir = "work_dirs/mini"
