"""Deformable DETR (https://arxiv.org/abs/2010.04159) of transformers on any backbone, with iterative refinement.

As `dfine.py`; `options` are those of the library's `DeformableDetrConfig`. Levels beyond the backbone's maps are made
by convolutions of stride 2.
"""

from .dfine import model

model.family = "deformable_detr"
model.last_layer_fgl = False  # its boxes are no distributions
model.options = dict(
    d_model=256,
    encoder_layers=6,
    decoder_layers=6,
    num_queries=300,
    num_feature_levels=4,
    auxiliary_loss=True,
    with_box_refine=True,
)
