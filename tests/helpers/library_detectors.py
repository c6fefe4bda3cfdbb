"""Small detectors of transformers, and the library's own models with the same weights."""

import copy
from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from loradet.backbones import TimmBackbone, TimmViT
from loradet.detectors import TransformersDetector
from loradet.detectors.library.extra import transformers
from loradet.errors import UserError


def _why_not() -> str:
    try:
        transformers()
    except UserError as error:
        return str(error)
    return ""


# PEFT brings some version of the library; the detectors need one of their own.
_REASON = _why_not()
needs_transformers = pytest.mark.skipif(bool(_REASON), reason=_REASON)

CLASSES = 3
PIXELS: dict[str, Any] = {"pixel_mean": [110.0, 115.0, 120.0], "pixel_std": [60.0, 60.0, 60.0]}
_HYBRID = {
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "hidden_expansion": 0.5,
    "d_model": 32,
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "num_queries": 20,
    "num_denoising": 10,
}
_GROUPS = {
    "d_model": 32,
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 2,
    "num_queries": 10,
    "group_detr": 2,
}
# A small HGNetV2 and ViTs, for the library's own backbones.
_HGNET = {
    "model_type": "hgnet_v2",
    "embedding_size": 8,
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [16, 16, 24, 32],
    "stem_channels": [3, 4, 8],
    "stage_in_channels": [8, 16, 16, 24],
    "stage_mid_channels": [4, 4, 8, 8],
    "stage_out_channels": [16, 16, 24, 32],
    "stage_num_blocks": [1, 1, 1, 1],
    "stage_numb_of_layers": [2, 2, 2, 2],
    "out_indices": [2, 3, 4],
}
_VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
    "out_features": ["stage1", "stage2"],
}
OPTIONS: dict[str, dict[str, Any]] = {
    "d_fine": _HYBRID | {"depth_mult": 0.34},
    "rt_detr_v2": _HYBRID,
    "deimv2": _HYBRID | {"depth_mult": 0.34},
    "deformable_detr": {
        "d_model": 32,
        "encoder_layers": 1,
        "encoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "decoder_layers": 2,
        "decoder_ffn_dim": 32,
        "decoder_attention_heads": 2,
        "num_queries": 20,
        "auxiliary_loss": True,
        "with_box_refine": True,
    },
    "rf_detr": _GROUPS,
    "lw_detr": _GROUPS | {"projector_scale_factors": [1.0]},
}
OWN: dict[str, dict[str, Any]] = {
    "d_fine": {"backbone_config": _HGNET},
    "rt_detr_v2": {"backbone_config": _HGNET},
    "deimv2": {"backbone_config": _HGNET},
    "deformable_detr": {
        "backbone_config": {
            "model_type": "resnet",
            "embedding_size": 8,
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 1, 1],
            "layer_type": "basic",
            "out_indices": [2, 3, 4],
        }
    },
    "rf_detr": {"backbone_config": _VIT | {"model_type": "rf_detr_dinov2", "image_size": 64, "num_windows": 2}},
    "lw_detr": {
        "backbone_config": _VIT
        | {"model_type": "lw_detr_vit", "image_size": 64, "pretrain_image_size": 64, "num_windows": 4}
    },
}


def convnext(**options: Any) -> TimmBackbone:
    """Maps of strides 8, 16 and 32."""
    sizes = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "ls_init_value": 0.5}
    return TimmBackbone("convnext_atto", out_features=["stage1", "stage2", "stage3"], **sizes | options)


def vit(blocks: tuple[int, ...] = (0, 1)) -> TimmViT:
    """Maps of stride 16."""
    return TimmViT("vit_tiny_patch16_224", blocks=blocks, embed_dim=16, depth=2, num_heads=2, img_size=64)


def build(family: str, *, own: bool = False, seed: int = 0, **options: Any) -> TransformersDetector:
    """A small detector, on a backbone of ours that its decoder can use, or on a small one of the library.

    Weights differ from one layer to the next, so that no two scores are tied.
    """
    torch.manual_seed(seed)
    backbone = None if own else (vit() if family in ("rf_detr", "lw_detr") else convnext())
    model = TransformersDetector(
        family=family,
        num_classes=CLASSES,
        backbone=options.pop("backbone", backbone),
        options=OPTIONS[family] | (OWN[family] if own else {}) | options.pop("options", {}),
        **PIXELS | options,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model


def library_model(detector: TransformersDetector) -> nn.Module:
    """The library's own model with a detector's weights, backbone included."""
    model = copy.deepcopy(detector)
    network, slot = model.network, model._slot
    path = next(name for name, module in network.named_modules() if module is slot)
    parent, _, name = path.rpartition(".")
    if hasattr(model.backbone, "net") and type(model.backbone).__name__ == "LibraryBackbone":
        setattr(network.get_submodule(parent), name, model.backbone.net)
        return network
    setattr(network.get_submodule(parent), name, Maps(model.backbone, slot.output))
    return network


class Maps(nn.Module):
    """A backbone of ours as the library calls its own."""

    def __init__(self, backbone: nn.Module, output: type) -> None:
        super().__init__()
        self.backbone, self.output = backbone, output

    def forward(self, pixel_values: torch.Tensor):
        return self.output(feature_maps=tuple(self.backbone(pixel_values).values()))


def items(*sizes: tuple[int, int], objects: int = 3, seed: int = 1) -> list[dict[str, Any]]:
    """Noise of these (height, width), each with so many objects."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for height, width in sizes:
        sides = torch.tensor([width, height])
        low = torch.rand(objects, 2, generator=generator) * 0.5 * sides
        high = low + (0.1 + 0.3 * torch.rand(objects, 2, generator=generator)) * sides
        instances = Instances(
            (height, width), gt_boxes=Boxes(torch.cat([low, high], 1)), gt_classes=torch.arange(objects) % CLASSES
        )
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
        found.append({"image": image, "instances": instances, "file_name": f"{height}x{width}.png"})
    return found
