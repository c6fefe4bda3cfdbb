"""A DETR small enough for tests: LoRA on a frozen backbone; `data.root` and `train.output_dir` come as overrides."""

from ...configs.common.models.detr import model
from .tiny import data, dataloader, lr_multiplier, optimizer, train
from .tiny import model as _retinanet

model.backbone = _retinanet.backbone.bottom_up
model.in_feature = "stage2"
model.position_embedding.num_pos_feats = 8
model.transformer.hidden_dim = 16
model.transformer.num_heads = 2
model.transformer.num_encoder_layers = 1
model.transformer.num_decoder_layers = 2
model.transformer.dim_feedforward = 32
model.num_queries = 7
model.backbone.module.module.out_features = ["stage2"]
