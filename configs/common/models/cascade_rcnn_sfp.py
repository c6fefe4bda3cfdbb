"""Cascade R-CNN on a plain backbone with one map, by a simple feature pyramid, as ViTDet has it: P2–P6.

The backbone here is ViT-Base without weights; another one, such as Vision Mamba, is `model.backbone.net`, and
`model.backbone.in_feature` the name of its map, whose stride has to be 16. Pyramid and box heads have layer norms.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling import SimpleFeaturePyramid, ViT
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from .cascade_rcnn import model

model.backbone = L(SimpleFeaturePyramid)(
    net=L(ViT)(
        img_size=640,
        patch_size=16,
        embed_dim=768,
        depth=12,
        num_heads=12,
        mlp_ratio=4,
        qkv_bias=True,
        drop_path_rate=0.1,
        window_size=14,
        window_block_indexes=[0, 1, 3, 4, 6, 7, 9, 10],
        use_rel_pos=True,
        residual_block_indexes=[],
        out_feature="last_feat",
    ),
    in_feature="last_feat",
    out_channels=256,
    scale_factors=[4.0, 2.0, 1.0, 0.5],
    top_block=L(LastLevelMaxPool)(),
    norm="LN",
    square_pad=0,  # batches are padded to their largest image
)
model.proposal_generator.head.conv_dims = [-1, -1]
for _head in model.roi_heads.box_heads:
    _head.conv_dims = [256, 256, 256, 256]
    _head.fc_dims = [1024]
    _head.conv_norm = "LN"
