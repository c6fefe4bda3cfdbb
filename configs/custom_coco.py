"""Your own COCO data: LoRA on a frozen backbone, feature pyramid and RetinaNet head trained.

    python tools/lazyconfig_train_net.py --config-file configs/custom_coco.py data.root=PATH data.classes=[a,b,c]

expects PATH/annotations/{train,val,test}.json and PATH/images/{train,val,test}/; other places are keys of `data`.
Copy this file and change what differs. The backbone is the small one that ships with the project; another is a
line: model_name="convnext_small.dinov3_lvd1689m", pretrained=True, weights=None (and in_channels of the top block).
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
dataloader.train.total_batch_size = 8
optimizer.lr = 1e-3
train.output_dir = "work_dirs/custom_coco"
train.clip_grad.max_norm = 1.0
