"""DETR-R50, LoRA of rank 8 on all attention, and the heads."""

from .budget import data, dataloader, init, lr_multiplier, optimizer, train
from .regimes import ATTENTION, lora_only

model = lora_only(8, ATTENTION)
train.output_dir = "work_dirs/detr_r50_lora_only_r8_attn"
