"""Grad-CAM, against plain loops over autograd's gradients on a tiny RetinaNet."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from torch import nn

from loradet.adapters import merge
from loradet.visualization.grad_cam import grad_cam
from loradet.visualization.grad_cam_pictures import overlay

CONFIG = Path(__file__).parents[2] / "tiny_config.py"
LEVELS = ["p3", "p4", "p5", "p6", "p7"]


def build(kind: str) -> nn.Module:
    """The tiny detector with random weights, LoRA's zero matrices among them; its scores differ."""
    torch.manual_seed(3)
    cfg = LazyConfig.load(str(CONFIG))
    cfg.model.num_classes = 3
    cfg.model.test_score_thresh = 0.0
    if kind == "full":
        cfg.model.backbone.bottom_up = cfg.model.backbone.bottom_up.module.module
    elif kind == "frozen backbone":
        cfg.model.backbone.bottom_up = cfg.model.backbone.bottom_up.module
    model = instantiate(cfg.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "cls_score.weight" in name:
                parameter.normal_(0, 0.3)
    if kind == "merged":
        merge(model)
    if kind == "all frozen":
        model.requires_grad_(False)
    return model


@pytest.fixture
def inputs():
    image = torch.randint(0, 255, (3, 60, 64), generator=torch.Generator().manual_seed(0)).float()
    return {"image": image, "height": 120, "width": 128}


def brute_force(model: nn.Module, inputs: dict, level: str, *, top: int, class_index: int | None) -> np.ndarray:
    """Heat of a level, from the detections that the model's own forward pass gives."""
    model = copy.deepcopy(model).eval().requires_grad_(True)
    with torch.no_grad():
        found = model([{"image": inputs["image"]}])[0]["instances"][:top]
    images = model.preprocess_image([inputs])
    features = model.backbone(images.tensor)
    logits, _ = model.head([features[name] for name in LEVELS])
    tables = [x.view(9, 3, *x.shape[-2:]).permute(2, 3, 0, 1).reshape(-1, 3) for x in logits]
    if class_index is not None:
        score = tables[LEVELS.index(level)][:, class_index].sort(descending=True).values[:top].sum()
    else:
        score = 0.0
        for value, label in zip(found.scores, found.pred_classes):
            column = torch.cat([table[:, label] for table in tables])
            score = score + column[(column.sigmoid() - value).abs().argmin()]
    (gradient,) = torch.autograd.grad(score, features[level], allow_unused=True)
    chart, heat = features[level].detach()[0].numpy(), np.zeros(features[level].shape[-2:])
    if gradient is None:
        return heat
    for channel in range(len(chart)):
        heat += gradient[0, channel].numpy().mean() * chart[channel]
    heat = np.maximum(heat, 0)
    return heat / heat.max() if heat.max() > 0 else heat


@pytest.mark.parametrize("kind", ["full", "frozen backbone", "lora", "merged", "all frozen"])
def test_equals_plain_loops(kind, inputs):
    model = build(kind)
    for class_index in (None, 1):
        result = grad_cam(model, inputs, LEVELS, class_index=class_index, top=4)
        for level in LEVELS:
            expected = brute_force(model, inputs, level, top=4, class_index=class_index)
            np.testing.assert_allclose(result.levels[level].heat.numpy(), expected, atol=2e-5)
    assert sum(level.num_scores for level in grad_cam(model, inputs, LEVELS, top=4).levels.values()) == 4


def test_merged_is_lora(inputs):
    separate, merged = (grad_cam(build(kind), inputs, LEVELS, class_index=0).levels for kind in ("lora", "merged"))
    for level in LEVELS:
        torch.testing.assert_close(separate[level].heat, merged[level].heat, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_was(kind, training, inputs):
    model = build(kind)
    model.train(training)
    model.head.eval()  # a mode of its own
    model.head.bbox_pred.bias.grad = torch.ones_like(model.head.bbox_pred.bias)

    def state():
        return (
            {name: module.training for name, module in model.named_modules()},
            {name: parameter.requires_grad for name, parameter in model.named_parameters()},
            [name for name, parameter in model.named_parameters() if parameter.grad is not None],
            [
                name
                for name, module in model.named_modules()
                if module._forward_hooks or module._backward_hooks or module._forward_pre_hooks
            ],
        )

    before, weights = state(), copy.deepcopy(model.state_dict())
    grad_cam(model, inputs, LEVELS)
    assert state() == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert model.head.bbox_pred.bias.grad.eq(1).all()
    with pytest.raises(ValueError, match="p3, p4, p5, p6, p7"):
        grad_cam(model, inputs, ["p3", "p2"])
    assert state() == before


def test_heat_lies_in_its_range_and_covers_the_image(inputs):
    result = grad_cam(build("lora"), inputs, LEVELS, class_index=2)
    assert result.levels["p7"].heat.shape == (1, 1)
    assert result.padded_size == (64, 64)  # rows are padded from 60
    for level in LEVELS:
        heat = result.on_image(level, 120, 128)
        assert heat.shape == (120, 128)
        assert 0 <= heat.min() <= heat.max() <= 1
        assert result.levels[level].heat.max() in (0, 1)
    whole = result.levels["p3"].heat
    expected = torch.nn.functional.interpolate(whole[None, None], size=(64, 64), mode="bilinear")[0, 0, :60]
    torch.testing.assert_close(result.on_image("p3", 60, 64), expected, atol=1e-6, rtol=0)


def test_no_detections_no_heat(inputs):
    result = grad_cam(build("lora"), inputs, LEVELS, score_threshold=1.0)
    assert len(result.detections) == 0
    assert all(level.heat.eq(0).all() and level.num_scores == 0 for level in result.levels.values())


def test_wrong_uses(inputs):
    model = build("full")
    with pytest.raises(ValueError, match="no level 'p9'; it has p3, p4, p5, p6, p7"):
        grad_cam(model, inputs, ["p9"])
    with pytest.raises(ValueError, match="is for RetinaNet; this model is a Linear"):
        grad_cam(nn.Linear(1, 1), inputs, ["p3"])
    with pytest.raises(ValueError, match="class 3 of 3"):
        grad_cam(model, inputs, ["p3"], class_index=3)
    with pytest.raises(ValueError, match="top=0"):
        grad_cam(model, inputs, ["p3"], top=0)


def test_cold_places_stay_and_hot_ones_turn_red():
    image = np.full((4, 6, 3), 80, np.uint8)
    heat = np.zeros((4, 6))
    heat[:, 3:] = 1.0
    painted = overlay(image, heat)
    assert (painted[:, :3] == 80).all()
    assert (painted[:, 3:, 0] > painted[:, 3:, 2]).all()
    assert (image == 80).all()
