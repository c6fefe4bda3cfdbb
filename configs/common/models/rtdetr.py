"""RT-DETRv2 (https://arxiv.org/abs/2407.17140) of transformers on any backbone, as wide and deep as its R18.

As `dfine.py`; `options` are those of the library's `RTDetrV2Config`.
"""

from .dfine import model

model.family = "rt_detr_v2"
model.last_layer_fgl = False  # its boxes are no distributions
model.options = dict(
    encoder_hidden_dim=256,
    encoder_ffn_dim=1024,
    hidden_expansion=0.5,
    d_model=256,
    decoder_layers=3,
    decoder_ffn_dim=1024,
    num_queries=300,
    num_denoising=100,
)
