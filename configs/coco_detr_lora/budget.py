"""What all nine experiments share: COCO 2017, 12 epochs of 16 images, AdamW at a constant 1e-4, flips and nothing else.

Weights are random, as in the study; batch norm trains, and gathers statistics where it is frozen. `init.resnet50=FILE`,
weights of torchvision's ResNet-50, starts every backbone from ImageNet, `train.init_checkpoint=FILE` a whole detector
from that file; batch norm stays as it is then.
"""

from detectron2.config import LazyCall as L
from detectron2.evaluation import DatasetEvaluators

from loradet.evaluation import CalibrationEvaluator

from ..common.coco2017 import data, dataloader
from ..common.optim import AdamW as optimizer
from ..common.schedule import constant as lr_multiplier
from ..common.train import train

init = dict(resnet50=None)
data.image_size = 800
data.max_size = 1333
dataloader.train.mapper.image_format = dataloader.val.mapper.image_format = "RGB"
dataloader.train.num_workers = 4
dataloader.evaluator = L(DatasetEvaluators)(
    evaluators=[dataloader.evaluator, L(CalibrationEvaluator)(dataset_name="${dataloader.val.dataset.name}")]
)
optimizer.params.weight_decay_norm = None
optimizer.weight_decay = 1e-4
train.allow_random_frozen = True
train.max_iter = "12 epochs"
train.max_batch_per_gpu = 4
train.efficiency.enabled = True
