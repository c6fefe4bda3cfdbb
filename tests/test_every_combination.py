"""Every backbone with every detector, adapted in every way: one training step, one inference, one adapter file."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage
from helpers.small_models import BACKBONES, CLASSES, DETECTORS, REGIMES, TORCHVISION_RESNET, SmallBackbone, batch, build
from torch import Tensor, nn

from loradet.adapters import adapter_layers, load_adapter, lora, merge, parameter_table, save_adapter, unmerge

CASES = [
    pytest.param(BACKBONES[backbone], detector, regime, id=f"{backbone}-{detector}-{regime}")
    for backbone in BACKBONES
    for detector in DETECTORS
    for regime in REGIMES
]
# Names of what gets a gradient of zeros all the same. A DETR's decoder starts from zeros, so its first layer attends to
# nothing but zeros wherever it looks, and its first norm, of zeros too, has nothing to scale.
SILENT = [
    r"transformer\.decoder\.layers\.0\.self_attn\.(?:in_proj_weight|out_proj\.weight)",
    r"transformer\.decoder\.layers\.0\.self_attn\.(?:[qkv]_|out_proj\.)lora_[ab]",
    r"transformer\.decoder\.layers\.0\.norm1\.weight",
]


def is_silent(name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in SILENT)


def all_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of parameters and of buffers, those that no checkpoint holds included."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in named}


def randomize(model: nn.Module, pattern: str) -> None:
    """Move trainable parameters whose name ends in a pattern away from where they start."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and re.search(rf"(?:{pattern})$", name):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


def train_one_step(model: nn.Module) -> dict[str, Tensor]:
    """The losses of one step of AdamW, without weight decay: what gets no gradient does not change."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, eps=1e-12, weight_decay=0.0)
    with EventStorage():
        losses = model.train()(batch())
    sum(losses.values()).backward()
    optimizer.step()
    return losses


def detect(model: nn.Module) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes, scores and classes of each image."""
    with torch.no_grad():
        found = [output["instances"] for output in model.eval()(batch())]
    return [(f.pred_boxes.tensor, f.scores, f.pred_classes) for f in found]


def features(model: nn.Module) -> dict[str, Tensor]:
    """What the head sees: continuous in the weights, which a choice of boxes is not."""
    with torch.no_grad():
        images = model.eval().preprocess_image(batch())
        maps = model.backbone(images.tensor)
        if hasattr(model, "predict"):
            feature = maps[model.in_feature]
            maps["logits"], maps["boxes"] = model.predict(feature, torch.zeros(2, *feature.shape[-2:]).bool())
    return maps


def is_statistic_that_trains(name: str, model: nn.Module) -> bool:
    """Whether a buffer is a running statistic of a batch norm whose weight trains."""
    path, _, buffer = name.rpartition(".")
    own = model.get_submodule(path).parameters(recurse=False)
    return buffer in ("running_mean", "running_var", "num_batches_tracked") and any(p.requires_grad for p in own)


def check_step(model: nn.Module) -> None:
    before = all_tensors(model)
    losses = train_one_step(model)
    assert losses and all(torch.isfinite(loss) for loss in losses.values()), losses
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trainable.items() if p.grad is None] == []
    assert [name for name, p in trainable.items() if not torch.isfinite(p.grad).all()] == []
    silent = {name for name, p in trainable.items() if not p.grad.any()}
    assert sorted(silent) == sorted(filter(is_silent, trainable))
    changes = {name for name in trainable if name not in silent}
    changes |= {name for name, _ in model.named_buffers() if is_statistic_that_trains(name, model)}
    changed = {name for name, tensor in all_tensors(model).items() if not torch.equal(tensor, before[name])}
    assert changed == changes


def check_detections(detections: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    assert len(detections) == 2
    for (boxes, scores, classes), image in zip(detections, batch()):
        assert len(boxes) == len(scores) == len(classes) > 0
        left, top, right, bottom = boxes.unbind(1)
        assert (left >= 0).all() and (top >= 0).all()
        assert (right <= image["width"]).all() and (bottom <= image["height"]).all()
        assert (left < right).all() and (top < bottom).all()
        assert ((scores >= 0) & (scores <= 1)).all()
        assert ((classes >= 0) & (classes < CLASSES)).all()


def same(ours: list[tuple[Tensor, ...]], theirs: list[tuple[Tensor, ...]]) -> bool:
    return all(torch.equal(a, b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True))


def check_round_trip(model: nn.Module, other: nn.Module, path: Path) -> None:
    """`other` has the base of `model`, and trained parts of its own."""
    randomize(other, "")
    save_adapter(model, path)
    expected = detect(model)
    assert not same(detect(other), expected)
    load_adapter(other, path)
    assert same(detect(other), expected)


def check_merge(model: nn.Module) -> None:
    unmerged, detections = features(model), detect(model)
    merge(model)
    merged = features(model)
    unmerge(model)
    assert same(detect(model), detections)
    for _, layer in adapter_layers(model):
        for name, tensor in layer.adapter_tensors().items():
            if name.endswith("lora_b"):
                tensor.data.zero_()
    base = features(model)
    assert any((unmerged[name] - base[name]).abs().max() > 1e-3 for name in base)  # the adapter does something
    for name, feature in unmerged.items():
        torch.testing.assert_close(merged[name], feature, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def check_parts(model: nn.Module, regime: str) -> None:
    """What the regime promises: by part of the detector, what trains."""
    parts = parameter_table(model).parts
    backbone = parts["backbone"]
    share = backbone.trainable / backbone.total
    assert {"probe": share == 0, "LoRA": 0 < share < 0.5, "partial": 0.1 < share < 1, "full": share == 1}[regime], share
    assert all(parts[name].trainable == parts[name].total for name in ("neck", "head"))
    assert (parts["neck"].total == 0) is hasattr(model, "transformer")


@pytest.mark.parametrize(("backbone", "detector", "regime"), CASES)
def test_trains_detects_and_travels(backbone: SmallBackbone, detector: str, regime: str, tmp_path: Path):
    model = build(backbone, detector, regime)
    check_parts(model, regime)
    randomize(model, "lora_b")
    check_step(model)
    check_detections(detect(model))
    check_round_trip(model, build(backbone, detector, regime, seed=1), tmp_path / "adapter.safetensors")
    if regime == "LoRA":
        check_merge(model)


@pytest.mark.parametrize("regime", ["Mona", "AdaptFormer"])
@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("backbone", ["ConvNeXt", "ViT"])
def test_adapters_of_blocks_train_and_travel(backbone: str, detector: str, regime: str, tmp_path: Path):
    model = build(BACKBONES[backbone], detector, regime)
    before = features(model)
    randomize(model, "up_weight")
    assert any((before[name] - feature).abs().max() > 1e-3 for name, feature in features(model).items())
    check_step(model)
    check_detections(detect(model))
    check_round_trip(model, build(BACKBONES[backbone], detector, regime, seed=1), tmp_path / "adapter.safetensors")


def with_lora_in_attention(backbone: SmallBackbone) -> nn.Module:
    model = build(backbone, "DETR", "LoRA")  # the transformer's weights are a base, too
    lora(model.transformer, targets=["self_attn", "multihead_attn"], rank=2, alpha=4.0)
    return model


@pytest.mark.parametrize("backbone", [BACKBONES["ViT"], TORCHVISION_RESNET], ids=["ViT", "TorchvisionResNet"])
def test_lora_in_the_attention_of_a_detr_besides(backbone: SmallBackbone, tmp_path: Path):
    model = with_lora_in_attention(backbone)
    randomize(model, "lora_b")
    check_step(model)
    check_detections(detect(model))
    check_round_trip(model, with_lora_in_attention(backbone), tmp_path / "adapter.safetensors")
    check_merge(model)
