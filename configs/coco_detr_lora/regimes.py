"""DETR-R50 and what trains of it: all, the last backbone stage with the heads, or LoRA with the heads."""

from detectron2.config import LazyCall as L

from loradet.adapters import freeze, lora
from loradet.backbones.batch_norm import batch_norm_for, gathers_statistics

from ..common.models.detr import model as full

START = dict(weights="${init.resnet50}", checkpoint="${train.init_checkpoint}")
full.backbone = full.backbone.module
full.backbone.norm = L(batch_norm_for)(**START)
full.backbone.weights = "${init.resnet50}"

HEADS = ["class_embed", "bbox_embed", "query_embed"]
ATTENTION = ["self_attn", "multihead_attn"]
FEED_FORWARD = ["linear1", "linear2"]

gathers = L(gathers_statistics)(**START)
partial = L(freeze)(module=full, unfreeze=["layer4", *HEADS], statistics=gathers)


def lora_only(rank: int, targets: list[str]):
    """LoRA and the heads train; the rest, input projection and backbone included, is frozen."""
    frozen = L(freeze)(module=full, unfreeze=HEADS, statistics=gathers)
    return L(lora)(module=frozen, targets=targets, rank=rank, alpha=2.0 * rank, dropout=0.0, freeze_base=True)
