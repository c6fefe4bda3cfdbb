"""DETR-R50, LoRA of rank 4 on all attention and feed-forward layers, and the heads."""

from .budget import data, dataloader, init, lr_multiplier, optimizer, train
from .regimes import ATTENTION, FEED_FORWARD, lora_only

model = lora_only(4, [*ATTENTION, *FEED_FORWARD])
train.output_dir = "work_dirs/detr_r50_lora_only_r4_attn_ffn"
