"""What all experiments of the study share: SARDet-100K at 800x800, RetinaNet, 12 epochs of AdamW, batches of 64, AMP.

Experiments differ in `model.backbone.bottom_up`, which is one of the adaptations below.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from loradet.adapters import freeze, lora

from ..common.models.retinanet_timm import model
from ..common.optim import AdamW as optimizer
from ..common.sardet100k import data, dataloader
from ..common.schedule import multistep_1x as lr_multiplier
from ..common.train import train

data.image_size = 800
_resize = L(T.Resize)(shape=["${data.image_size}", "${data.image_size}"])
dataloader.train.mapper.augmentations = [_resize, L(T.RandomFlip)(horizontal=True)]
dataloader.val.mapper.augmentations = dataloader.test.mapper.augmentations = [_resize]
dataloader.train.dataset.min_size = 16
data.total_batch_size = 64
dataloader.train.num_workers = 4
optimizer.params.weight_decay_norm = None  # the study decays norms like everything else
lr_multiplier.max_fraction = 1.0  # the study's own warm-up, as published
train.amp.enabled = True
train.max_batch_per_gpu = 16
train.eval_splits = ["val", "test"]

dinov3 = model.backbone.bottom_up
linear_probe = L(freeze)(module=dinov3, unfreeze=[])
lora_fc1fc2 = L(lora)(
    module=linear_probe, targets=["mlp.fc1", "mlp.fc2"], rank=16, alpha=32.0, dropout=0.0, freeze_base=True
)
