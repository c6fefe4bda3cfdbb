"""Your own COCO data, free from end to end: LoRA on a frozen DINOv2 ViT-S, pyramid and RetinaNet head trained.

    loradet train --config-file configs/custom_coco_apache.py data.root=PATH 'data.classes=[a,b,c]'

expects what `custom_coco.py` does. Code and weights of DINOv2 are under the Apache License 2.0, and pyramid and head
start at random, so that nothing here carries terms of another kind (docs/licences.md). The 22 M weights come from the
Hugging Face Hub at the first start; docs/pretrained_weights.md says how to do without a network.

DINOv2's patches are 14 pixels wide; timm resamples them to 16, which gives P3 to P7 their strides.
"""

from detectron2.config import LazyCall as L

from loradet.adapters import freeze, lora
from loradet.backbones import TimmViT

from .common.data import data, dataloader
from .common.models.retinanet_vit import model
from .common.optim import AdamW as optimizer
from .common.schedule import cosine as lr_multiplier
from .common.train import train

model.backbone.net = L(lora)(
    module=L(freeze)(
        module=L(TimmViT)(
            model_name="vit_small_patch14_reg4_dinov2.lvd142m",
            pretrained=True,
            weights=None,
            patch_size=16,
            img_size=592,  # 37 patches, as the published position embedding; images of any size are taken
        ),
        unfreeze=[],
    ),
    targets=["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"],
    rank=16,
    alpha=32.0,
    dropout=0.0,
    freeze_base=True,
)
data.image_size = 640
data.max_size = 1024
data.total_batch_size = 8
optimizer.lr = 2e-4
train.output_dir = "work_dirs/custom_coco_apache"
train.max_iter = "24 epochs, at least 500 iterations"
train.eval_period = "2 epochs, at least 50, at most 10000 iterations"
train.checkpointer.period = "2 epochs, at least 50, at most 5000 iterations"
train.max_batch_per_gpu = 4
train.clip_grad.max_norm = 1.0
