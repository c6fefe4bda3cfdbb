"""E0008: a linear probe of the ConvNeXt-S that was trained on ImageNet with labels."""

from .e0003_linear_probe import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.module.model_name = "convnext_small"
train.output_dir = "work_dirs/E0008_full"
