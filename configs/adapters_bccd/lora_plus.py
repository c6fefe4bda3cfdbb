"""LoRA+: B learns eight times as fast as A."""

from detectron2.config import LazyCall as L

from loradet.adapters import lora_plus

from .base import data, dataloader, lr_multiplier, model, optimizer, train

optimizer.params.base_lr = "${..lr}"
optimizer.params.lr_factor_func = L(lora_plus)(ratio=8)
