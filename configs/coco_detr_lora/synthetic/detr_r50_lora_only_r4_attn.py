"""DETR-R50, LoRA of rank 4 on all attention, and the heads."""

from ..regimes import ATTENTION, lora_only
from .budget import data, dataloader, init, lr_multiplier, optimizer, train

model = lora_only(4, ATTENTION)
train.output_dir = "work_dirs/synthetic_detr_r50_lora_only_r4_attn"
