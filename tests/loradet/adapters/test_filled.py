"""Frozen parts that hold no weights from anywhere are found."""

import copy

import pytest
import safetensors.torch
import torch
from detectron2.layers import FrozenBatchNorm2d
from helpers import small_models
from torch import nn

from loradet.adapters import freeze, lora
from loradet.adapters.filled import loaded_tensors, mark_loaded, random_frozen
from loradet.backbones import TimmBackbone
from loradet.checkpoint import Checkpointer
from loradet.training.assemble import check_frozen

SIZES = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "out_features": ["stage1", "stage2", "stage3"]}


def detector(weights=None, unfreeze=()) -> nn.Module:
    net = freeze(TimmBackbone("convnext_atto", weights=weights, **SIZES), unfreeze=unfreeze)
    return small_models.retinanet(lora(net, targets=["mlp.fc1"], rank=2, alpha=4.0))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    safetensors.torch.save_file(TimmBackbone("convnext_atto", **SIZES).state_dict(), path)
    return path


@pytest.mark.parametrize("kind", small_models.BACKBONES)
def test_a_random_frozen_backbone_is_found(kind):
    backbone = small_models.BACKBONES[kind]
    for regime in ("probe", "LoRA", "partial"):
        found = random_frozen(small_models.build(backbone, "RetinaNet", regime))
        assert list(found) == ["backbone"]
        assert not any("lora_" in name for name in found["backbone"])
    assert random_frozen(small_models.build(backbone, "RetinaNet", "full")) == {}


def test_a_file_of_weights_fills_it(weights):
    model = detector(weights)
    assert random_frozen(model) == {} == random_frozen(copy.deepcopy(model))
    check_frozen(model, allow_random=False)
    assert all(name.startswith("backbone.bottom_up.net.") for name in loaded_tensors(model))


def test_only_what_a_checkpoint_lacks_is_listed(tmp_path):
    source, model = detector(), detector()
    state = {name: tensor for name, tensor in source.state_dict().items() if ".stages_1." not in name}
    torch.save({"model": state}, tmp_path / "part.pth")
    Checkpointer(model).load_weights(str(tmp_path / "part.pth"), strict=False)
    found = random_frozen(model)
    frozen = [name for name, p in model.named_parameters() if ".stages_1." in name and not p.requires_grad]
    assert sorted(found["backbone"]) == sorted(frozen) and list(found) == ["backbone"]
    with pytest.raises(ValueError, match=r"backbone: \d+ tensors \(backbone\.bottom_up\.net\.stages_1.*allow_random"):
        check_frozen(model, allow_random=False)
    Checkpointer(model).load_weights(str(save(source, tmp_path)), strict=False)
    check_frozen(model, allow_random=False)


def save(model, folder):
    torch.save({"model": model.state_dict()}, folder / "whole.pth")
    return folder / "whole.pth"


def test_a_checkpoint_without_the_backbone_leaves_it_random(tmp_path, caplog):
    model = detector()
    state = {name: t for name, t in model.state_dict().items() if not name.startswith("backbone.bottom_up.")}
    torch.save({"model": state}, tmp_path / "rest.pth")
    with caplog.at_level("INFO"):
        Checkpointer(model).load_weights(str(tmp_path / "rest.pth"), strict=False)
    total = sum(name.startswith("backbone.bottom_up.") for name in model.state_dict())
    neck = sum(name.startswith("backbone.") for name in model.state_dict()) - total
    assert f"rest.pth: backbone 0 of {total}, neck {neck} of {neck}, head" in caplog.text
    assert "not found" not in caplog.text
    check_frozen(model, allow_random=True)
    assert "Frozen and random, as allowed: backbone" in caplog.text
    with pytest.raises(ValueError, match=r"neither pretraining nor a checkpoint filled: backbone"):
        check_frozen(model, allow_random=False)


class Loaded(nn.Module):
    """Somebody's own network, which loads what it wants where nobody sees it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1).requires_grad_(False)


def test_modules_of_others_are_not_judged():
    assert random_frozen(nn.Sequential(Loaded())) == {}
    assert random_frozen(lora(freeze(Loaded()), targets=["conv"], rank=1, alpha=1.0)) == {}
    # Plain layers belong to nobody, so nobody else has filled them.
    assert random_frozen(nn.Sequential(nn.Linear(1, 1)).requires_grad_(False)) == {"head": ["0.weight", "0.bias"]}


def test_norms():
    names = ["0.weight", "0.bias", "0.running_mean", "0.running_var"]
    frozen = nn.Sequential(FrozenBatchNorm2d(2), nn.Conv2d(2, 2, 1, bias=False))
    assert random_frozen(frozen) == {}  # the identity, in a part that trains
    frozen[1].requires_grad_(False)
    assert random_frozen(frozen) == {"head": [*names, "1.weight"]}
    mark_loaded(frozen[0], ["weight", "bias"])
    assert random_frozen(frozen) == {"head": [*names[2:], "1.weight"]}
    norm = freeze(nn.Sequential(nn.BatchNorm2d(2)))
    assert random_frozen(norm) == {"head": names}
    # Norms that gather statistics in training learn these.
    gathering = freeze(nn.Sequential(nn.BatchNorm2d(2)), statistics=True)
    assert random_frozen(gathering) == {"head": names[:2]}
