"""D-FINE (https://arxiv.org/abs/2410.13842) of transformers on any backbone: encoder and decoder of its size "small".

`pip install 'loradet[transformers]'`. The backbone is any that gives maps of strides 8, 16, 32; None: the library's own
HGNetV2, for which `pixel_mean` is [0, 0, 0] and `pixel_std` [255, 255, 255]. `options` are those of the library's
`DFineConfig`; the number of classes and what follows from the maps are not among them.
"""

from detectron2.config import LazyCall as L

from loradet.backbones import TimmBackbone
from loradet.detectors import TransformersDetector

model = L(TransformersDetector)(
    family="d_fine",
    backbone=L(TimmBackbone)(
        model_name="convnext_small.dinov3_lvd1689m", pretrained=True, out_features=["stage1", "stage2", "stage3"]
    ),
    in_features=None,  # all maps of the backbone
    options=dict(
        encoder_hidden_dim=256,
        encoder_ffn_dim=1024,
        hidden_expansion=0.5,
        depth_mult=0.34,
        d_model=256,
        decoder_layers=3,
        decoder_ffn_dim=1024,
        decoder_n_points=[3, 6, 3],
        num_queries=300,
        num_denoising=100,
    ),
    last_layer_fgl=True,
    num_classes="${data.num_classes}",
    max_detections_per_image=None,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
    pad_to=None,
)


def slim(model) -> None:
    """Half the width and a third of the queries."""
    model.options.encoder_hidden_dim = model.options.d_model = 128
    model.options.encoder_ffn_dim = model.options.decoder_ffn_dim = 512
    model.options.num_queries = 100
    model.options.num_denoising = 50
