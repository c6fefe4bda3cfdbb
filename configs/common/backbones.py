"""The small backbone that ships with the project, frozen, without and with LoRA; a neck and head to match."""

from detectron2.config import LazyCall as L

from loradet.adapters import freeze, lora
from loradet.backbones import TimmBackbone

atto = L(TimmBackbone)(
    model_name="convnext_atto",
    weights="asset://convnext_atto_synthetic.safetensors",
    out_features=["stage1", "stage2", "stage3"],
)
atto_frozen = L(freeze)(module=atto, unfreeze=[])
atto_lora = L(lora)(
    module=atto_frozen, targets=["mlp.fc1", "mlp.fc2"], rank=16, alpha=32.0, dropout=0.0, freeze_base=True
)


def slim(model, channels: int = 64, convs: int = 2) -> None:
    """Fit `common.models.retinanet_timm` to the small backbone: narrow neck and head, anchors from 16 pixels."""
    model.backbone.out_channels = channels
    model.backbone.norm = ""
    model.head.conv_dims = [channels] * convs
    model.anchor_generator.sizes = [[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in [16, 32, 64, 128, 256]]
