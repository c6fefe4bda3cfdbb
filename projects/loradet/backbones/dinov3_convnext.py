"""The backbone of the SAR-LoRA-DINO study under one name."""

from collections.abc import Sequence
from typing import Any

from detectron2.modeling import BACKBONE_REGISTRY

from loradet.adapters import freeze, lora
from loradet.backbones.timm_backbone import TimmBackbone


@BACKBONE_REGISTRY.register()
class Dinov3TimmConvNeXtLoRA(TimmBackbone):
    """`lora(freeze(TimmBackbone(...)))`, with the same parameter names and outputs.

    Args:
        model_name, pretrained, out_features: see `TimmBackbone`; the study uses DINOv3 ConvNeXts.
        unfreeze: parts of the frozen network that train besides, such as `["stages_3"]`.
        targets, rank, alpha, dropout, freeze_base, memory: see `loradet.adapters.lora`.
        timm_kwargs: further arguments of `TimmBackbone`.
    """

    def __init__(
        self,
        model_name: str = "convnext_small.dinov3_lvd1689m",
        pretrained: bool = False,
        out_features: Sequence[str] | None = None,
        unfreeze: Sequence[str] = (),
        targets: Sequence[str] = ("mlp.fc1", "mlp.fc2"),
        rank: int = 16,
        alpha: float = 32.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
        memory: str = "lean",
        **timm_kwargs: Any,
    ):
        super().__init__(model_name, pretrained, out_features, **timm_kwargs)
        freeze(self, unfreeze=unfreeze)
        lora(self, targets=targets, rank=rank, alpha=alpha, dropout=dropout, freeze_base=freeze_base, memory=memory)
