"""`checkpoint=True`: the same gradients from less that is kept."""

import pytest
import torch
from helpers.adapter_nets import seeded
from helpers.lean_nets import adapted, assert_same, convnext, images, saved_mb, step, vit
from helpers.small_models import BACKBONES, MAMBA_PROJECTIONS

from loradet.backbones import TimmBackbone, VisionMamba
from loradet.backbones.checkpointing import checkpoint_blocks


def mamba(**kwargs) -> torch.nn.Module:
    sizes = {"img_size": 64, "embed_dim": 16, "depth": 3, "d_state": 4}
    net = VisionMamba(random_weights=True, **sizes, if_rope=True, if_rope_residual=True, drop_path_rate=0.5, **kwargs)
    for name, parameter in net.named_parameters():
        if name.endswith("proj.weight") and "patch" not in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return net


MLP = ["mlp.fc1", "mlp.fc2"]
CASES = {
    "ConvNeXt": (convnext, MLP),
    "ConvNeXt with drop path": (lambda **kwargs: convnext(drop_path_rate=0.5, **kwargs), MLP),
    "ViT": (vit, ["attn.qkv", *MLP]),
    "EVA": (lambda **kwargs: vit("vit_small_patch16_dinov3", **kwargs), ["attn.qkv", *MLP]),
    "ResNet": (lambda **kwargs: TimmBackbone("resnet18", zero_init_last=False, **kwargs), ["conv1", "conv2"]),
    "Vision Mamba": (mamba, MAMBA_PROJECTIONS),
}


FROZEN = [(case, ()) for case in CASES]
UNFROZEN = [(case, None) for case in CASES if case != "ResNet"]  # whose batch norms would count twice


@pytest.mark.parametrize("case, unfreeze", FROZEN + UNFROZEN)
def test_gradients_are_those_without(case, unfreeze):
    build, targets = CASES[case]
    ours, plain = (
        adapted(lambda on=on: build(checkpoint=on), targets, "lean", unfreeze=unfreeze) for on in (True, False)
    )
    x = images()
    assert_same(step(ours, x), step(plain, x), 1e-6)
    assert saved_mb(ours, x) < 0.8 * saved_mb(plain, x)


def test_the_default_is_without():
    for kind in BACKBONES.values():
        net = kind.build(kind.maps)
        assert not getattr(net, "checkpoint", False) and not getattr(getattr(net, "net", net), "grad_checkpointing", 0)


def test_batch_norms_that_would_count_twice_are_refused():
    net = seeded(0, TimmBackbone, "resnet18", checkpoint=True).train()
    with pytest.raises(ValueError, match=r"batch norm 'bn1' gathers statistics and would see each batch twice"):
        net(images())
    assert net.eval()(images())["stage3"].shape == (2, 512, 2, 2)


def test_reentrant_checkpointing_and_networks_without_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="timm has no gradient checkpointing for 'linear'; leave it off"):
        checkpoint_blocks(torch.nn.Linear(2, 2), "linear")
    monkeypatch.setattr("timm.layers.config._USE_REENTRANT_CKPT", True)
    with pytest.raises(ValueError, match="unset TIMM_REENTRANT_CKPT"):
        convnext(checkpoint=True)
