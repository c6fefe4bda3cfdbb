"""RF-DETR (https://arxiv.org/abs/2511.09554) of transformers on a ViT of ours: its decoder on maps of one stride.

As `dfine.py`; `options` are those of the library's `RfDetrConfig`. LW-DETR (https://arxiv.org/abs/2406.03459) is
`model.family="lw_detr"` with `options.projector_scale_factors=[1.0]`.
"""

from detectron2.config import LazyCall as L

from loradet.backbones import TimmViT

from .dfine import model

model.backbone = L(TimmViT)(model_name="vit_small_patch16_dinov3.lvd1689m", pretrained=True, blocks=[2, 5, 8, 11])
model.family = "rf_detr"
model.last_layer_fgl = False  # its boxes are no distributions
model.options = dict(d_model=256, decoder_layers=3, num_queries=300, group_detr=13)
