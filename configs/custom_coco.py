"""Your own COCO data: LoRA on a frozen backbone, feature pyramid and RetinaNet head trained.

    loradet train --config-file configs/custom_coco.py data.root=PATH 'data.classes=[a,b,c]'

expects PATH/annotations/{train,val,test}.json and PATH/images/{train,val,test}/; other places are keys of `data`.
Copy this file and change what differs. The detector is the small one that ships with the project; docs/configs.md says
how to put another backbone in (its neck and head then start at random: init_checkpoint="").
"""

from .common.backbones import atto_lora, slim
from .common.data import data, dataloader
from .common.models.retinanet_timm import model
from .common.optim import AdamW as optimizer
from .common.schedule import cosine as lr_multiplier
from .common.train import train

slim(model)
model.backbone.bottom_up = atto_lora
data.image_size = 320
data.max_size = 512
data.total_batch_size = 8
optimizer.lr = 1e-3
train.init_checkpoint = "asset://retinanet_slim_synthetic.safetensors"
train.output_dir = "work_dirs/custom_coco"
# Few images take their number of steps, and many are evaluated and saved before their epoch is over.
train.max_iter = "12 epochs, at least 120 iterations"
train.eval_period = "1 epochs, at least 20, at most 10000 iterations"
train.checkpointer.period = "1 epochs, at least 20, at most 5000 iterations"
train.clip_grad.max_norm = 1.0
