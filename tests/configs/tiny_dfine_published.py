"""A published D-FINE: its heads train, and LoRA on its decoder. `+model.module.module.weights` is an override."""

from detectron2.config import LazyCall as L

from loradet.adapters import freeze, lora

from .tiny_dfine import data, dataloader, lr_multiplier, optimizer, train
from .tiny_dfine import model as _detector

_detector.backbone = None
_detector.options = {}
model = L(lora)(
    module=L(freeze)(module=_detector, unfreeze=["class_embed", "bbox_embed", "enc_score_head", "enc_bbox_head"]),
    targets=["self_attn.q_proj", "self_attn.v_proj"],
    rank=2,
    alpha=4.0,
    dropout=0.0,
    freeze_base=True,
)
# The detector that the mappers ask is further in.
for split in ("train", "val", "test"):
    dataloader[split].mapper.image_format = "RGB"
