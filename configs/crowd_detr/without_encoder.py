"""Decoder only: the transformer reads DINOv3's features without an encoder of its own."""

from .full import data, dataloader, lr_multiplier, model, optimizer, train

model.transformer.num_encoder_layers = 0
train.output_dir = "work_dirs/crowd_detr_without_encoder"
