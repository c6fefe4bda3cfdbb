"""Learning rates by layer are those that timm gives."""

import pytest
import timm
from detectron2.solver import get_default_optimizer_params
from timm.optim import param_groups_layer_decay
from torch import nn

from loradet.adapters import adapter_layers, lora, lora_plus, mona
from loradet.backbones import TimmBackbone, TimmViT, timm_lr_factors

NETWORKS = {
    "convnext_atto": {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)},
    "vit_tiny_patch16_224": {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 64},
    "vit_small_patch16_dinov3": {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 64},
    "test_resnet": {},
    "test_efficientnet": {},
}


class Detector(nn.Module):
    def __init__(self, net: nn.Module):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.bottom_up = net
        self.backbone.lateral = nn.Conv2d(2, 2, 1)
        self.head = nn.Conv2d(2, 2, 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_factors_are_timm_s(name):
    options = NETWORKS[name]
    build = TimmViT if name.startswith("vit") else TimmBackbone
    kept = build(name, **options)
    factor = timm_lr_factors(model_name=name, lr_decay_rate=0.5, **options)
    whole = timm.create_model(name, **options)
    groups = param_groups_layer_decay(whole, layer_decay=0.5)
    names = {id(parameter): key for key, parameter in whole.named_parameters()}
    theirs = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    for key, _ in kept.net.named_parameters():
        plain = key.replace("stages_", "stages.", 1).replace("stem_", "stem.", 1)
        if plain.startswith("layer_"):
            continue
        assert factor(f"backbone.bottom_up.net.{key}") == theirs[plain], key
    assert len({factor(f"backbone.net.net.{key}") for key, _ in kept.net.named_parameters()}) > 3
    assert factor("backbone.lateral.weight") == factor("head.weight") == factor("pixel_mean") == 1.0


def factor_of(net: nn.Module, factor, parameter: nn.Parameter) -> float:
    (name,) = (key for key, other in net.named_parameters() if other is parameter)
    return factor(f"backbone.bottom_up.{name}")


def test_adapters_have_the_rate_of_their_layer():
    net = lora(TimmBackbone("convnext_atto", **NETWORKS["convnext_atto"]), ["mlp.fc1"], 2, 4.0)
    factor = timm_lr_factors(model_name="convnext_atto", lr_decay_rate=0.5, **NETWORKS["convnext_atto"])
    groups = get_default_optimizer_params(Detector(net), base_lr=1.0, lr_factor_func=factor)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for layer in (net.net.stages_0.blocks[0].mlp.fc1, net.net.stages_3.blocks[0].mlp.fc1):
        assert rates[id(layer.lora_a)] == factor_of(net, factor, layer.weight) < 1
    assert rates[id(net.net.stem_0.weight)] < rates[id(net.net.stages_3.blocks[0].mlp.fc2.weight)]


@pytest.mark.parametrize("name", [name for name in NETWORKS if not name.startswith("test")])
def test_mona_has_the_rate_of_its_block(name):
    options = NETWORKS[name]
    net = mona((TimmViT if name.startswith("vit") else TimmBackbone)(name, **options), rank=2)
    factor = timm_lr_factors(model_name=name, lr_decay_rate=0.5, **options)
    rates = set()
    for _, block in adapter_layers(net):
        own = {factor_of(net, factor, parameter) for parameter in block.adapter_tensors().values()}
        assert own == {factor_of(net, factor, block.mlp.fc1.weight)}
        rates |= own
    assert len(rates) > 2


def test_lora_plus_raises_b_alone():
    net = Detector(lora(TimmBackbone("convnext_atto", **NETWORKS["convnext_atto"]), ["mlp.fc1"], 2, 4.0))
    groups = get_default_optimizer_params(net, base_lr=1e-3, lr_factor_func=lora_plus(ratio=8))
    names = {id(parameter): key for key, parameter in net.named_parameters()}
    high = {names[id(p)] for group in groups for p in group["params"] if group["lr"] == pytest.approx(8e-3)}
    assert high == {key for key, _ in net.named_parameters() if key.endswith("lora_b")}
    assert sorted({group["lr"] for group in groups}) == pytest.approx([1e-3, 8e-3])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"model_name": "convnext_atto", "lr_decay_rate": 0.0}, "lr_decay_rate=0.0; expected above 0"),
        ({"model_name": "convnext_atom", "lr_decay_rate": 0.5}, "convnext_atto"),
    ],
)
def test_what_cannot_be_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        timm_lr_factors(**words)
