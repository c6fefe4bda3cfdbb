"""A D-FINE small enough for tests: LoRA on a frozen backbone; `data.root` and `train.output_dir` come as overrides."""

from ...configs.common.models.dfine import model
from .tiny import data, dataloader, lr_multiplier, optimizer, train
from .tiny import model as _retinanet

model.backbone = _retinanet.backbone.bottom_up
model.options.encoder_hidden_dim = 16
model.options.encoder_ffn_dim = 16
model.options.encoder_attention_heads = 2
model.options.d_model = 16
model.options.decoder_layers = 2
model.options.decoder_ffn_dim = 16
model.options.decoder_attention_heads = 2
model.options.decoder_n_points = 2
model.options.num_queries = 12
model.options.num_denoising = 8
