"""E0020: the ConvNeXt-S that was trained on ImageNet with labels is fine-tuned whole."""

from .e0019_full import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.model_name = "convnext_small"
train.output_dir = "work_dirs/E0020_full"
