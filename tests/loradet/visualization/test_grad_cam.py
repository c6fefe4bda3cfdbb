"""Heat of detections, against plain loops over autograd's gradients and against finite differences."""

import copy

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from helpers.paths import TEST_CONFIGS
from helpers.small_models import BACKBONES, item
from helpers.small_models import build as build_small
from torch import nn
from torchvision.ops import batched_nms

from loradet.adapters import merge
from loradet.visualization.grad_cam.heat import contributions, grad_cam
from loradet.visualization.grad_cam.pictures import hottest_pixel, overlay
from loradet.visualization.grad_cam.scores import scored_detections

CONFIG = TEST_CONFIGS / "tiny.py"
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


def brute_force(model: nn.Module, inputs: dict, top: int) -> list[tuple[str, int, np.ndarray]]:
    """Level, cell and signed contributions of the detections that the model's own forward pass gives."""
    model = copy.deepcopy(model).eval().requires_grad_(True)
    with torch.no_grad():
        found = model([{"image": inputs["image"]}])[0]["instances"][:top]
    features = model.backbone(model.preprocess_image([inputs]).tensor)
    logits, _ = model.head([features[name] for name in LEVELS])
    tables = [x.view(9, 3, *x.shape[-2:]).permute(2, 3, 0, 1).reshape(-1, 3) for x in logits]
    results = []
    for value, label in zip(found.scores, found.pred_classes):
        column = torch.cat([table[:, label] for table in tables])
        row = int((column.sigmoid() - value).abs().argmin())
        place = int(np.searchsorted(np.cumsum([len(table) for table in tables]), row, side="right"))
        chart = features[LEVELS[place]]
        (gradient,) = torch.autograd.grad(column[row], chart, retain_graph=True)
        heat = np.zeros(chart.shape[-2:])
        for channel in range(chart.shape[1]):
            for y in range(chart.shape[2]):
                for x in range(chart.shape[3]):
                    heat[y, x] += float(gradient[0, channel, y, x] * chart[0, channel, y, x].detach())
        results.append((LEVELS[place], (row - sum(map(len, tables[:place]))) // 9, heat))
    return results


@pytest.mark.parametrize("kind", ["full", "frozen backbone", "lora", "merged", "all frozen"])
def test_equals_plain_loops(kind, inputs):
    model = build(kind)
    result = grad_cam(model, inputs, top=6)
    expected = brute_force(model, inputs, top=6)
    assert [heat.level for heat in result.heats] == [level for level, *_ in expected]
    for found, (_, _, parts) in zip(result.heats, expected):
        heat = np.maximum(parts, 0)
        np.testing.assert_allclose(found.heat.numpy(), heat / max(heat.max(), 1e-12), atol=2e-5)
    chosen = grad_cam(model, inputs, ["p3"], top=3)
    assert {heat.level for heat in chosen.heats} == {"p3"}


def test_heat_stays_where_the_head_has_looked(inputs):
    """Two 3x3 convolutions in a row see two cells to each side: nothing beyond speaks for a detection."""
    model = build("lora")
    for found, (_, cell, _) in zip(grad_cam(model, inputs, top=20).heats, brute_force(model, inputs, top=20)):
        width = found.heat.shape[1]
        y, x = divmod(cell, width)
        outside = found.heat.clone()
        outside[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = 0
        assert outside.eq(0).all()


def test_of_a_linear_head_the_contributions_add_up_to_the_score(inputs):
    model = build("lora").eval()
    model.head.cls_subnet = nn.Sequential()
    images = model.preprocess_image([inputs])
    scored = scored_detections(model, images, levels=LEVELS, top=30)
    assert len(set(scored.levels)) > 1
    biases = model.head.cls_score.bias.detach().view(9, 3)
    assert biases.eq(biases[0, 0]).all()
    for level, log_odds in zip(scored.levels, scored.log_odds):
        total = contributions(scored.maps[level], log_odds).sum()
        assert float(total) == pytest.approx(float(log_odds.detach() - biases[0, 0]), abs=1e-5)


def test_merged_is_lora(inputs):
    separate, merged = (grad_cam(build(kind), inputs, class_index=0).heats for kind in ("lora", "merged"))
    for first, second in zip(separate, merged, strict=True):
        torch.testing.assert_close(first.heat, second.heat, atol=1e-4, rtol=0)


def double(detector: str) -> nn.Module:
    """A small detector in float64; boxes of a cascade's early stages stay where they are, whatever the map."""
    model = build_small(BACKBONES["ConvNeXt"], detector, "full", seed=2).double().eval()
    if detector != "DETR":
        predictors = model.roi_heads.box_predictor
        with torch.no_grad():
            for predictor in predictors if isinstance(predictors, nn.ModuleList) else [predictors]:
                predictor.cls_score.weight.normal_(0, 0.5)
                predictor.bbox_pred.weight.zero_()
    else:
        nn.init.normal_(model.class_embed.weight, std=0.5)
    return model


@pytest.fixture
def _nms_in_float64(monkeypatch):
    """An installed Detectron2 mixes types where the model is in float64."""
    for module in ("roi_heads.fast_rcnn", "proposal_generator.proposal_utils"):
        monkeypatch.setattr(
            f"detectron2.modeling.{module}.batched_nms",
            lambda boxes, scores, *rest: batched_nms(boxes.double(), scores.double(), *rest),
        )


class GivenMaps(nn.Module):
    """In place of a backbone."""

    def __init__(self, maps, divisibility):
        super().__init__()
        self.maps, self.size_divisibility, self.padding_constraints = maps, divisibility, {}

    def forward(self, _):
        return self.maps


def rcnn_log_odds(model, inputs, maps, proposals, index) -> float:
    """Log-odds of a detection that the model's own forward pass gives for these maps."""
    other = copy.copy(model)
    other._modules = dict(model._modules)
    other.backbone, other.proposal_generator = GivenMaps(maps, model.backbone.size_divisibility), None
    found = other.inference([{"image": inputs["image"], "proposals": proposals}], do_postprocess=False)[0]
    near = (found.pred_boxes.tensor - index[0]).abs().amax(1) + (found.pred_classes != index[1])
    return float(torch.logit(found.scores[int(near.argmin())]))


@pytest.mark.usefixtures("_nms_in_float64")
@pytest.mark.parametrize("detector", ["Faster R-CNN", "Cascade R-CNN"])
def test_of_a_two_stage_detector_equals_finite_differences_on_the_pooled_level(detector):
    model, inputs = double(detector), {"image": item(48, 64, [[8, 8, 40, 40]], [1], seed=1)["image"].double()}
    images = model.preprocess_image([inputs])
    with torch.no_grad():
        maps = model.backbone(images.tensor)
        proposals = model.proposal_generator(images, maps, None)[0][0]
        whole = model.inference([inputs], do_postprocess=False)[0]
    scored = scored_detections(model, images, levels=model.roi_heads.box_in_features, top=4)
    assert torch.equal(scored.detections.pred_boxes.tensor, whole.pred_boxes.tensor[:4])
    assert scored.detections.scores.tolist() == pytest.approx(whole.scores[:4].tolist(), abs=1e-6)
    step, moved = 1e-4, 0
    for place, (level, log_odds) in enumerate(zip(scored.levels, scored.log_odds)):
        index = scored.detections.pred_boxes.tensor[place], scored.detections.pred_classes[place]
        parts = contributions(scored.maps[level], log_odds)
        cells = [*parts.abs().flatten().argsort(descending=True)[:3].tolist(), 0]
        for y, x in (divmod(cell, parts.shape[1]) for cell in cells):
            sides = []
            for sign in (1, -1):
                changed = {name: value.clone() for name, value in maps.items()}
                changed[level][0, :, y, x] *= 1 + sign * step
                with torch.no_grad():
                    sides.append(rcnn_log_odds(model, inputs, changed, proposals, index))
            expected = (sides[0] - sides[1]) / (2 * step)
            assert float(parts[y, x]) == pytest.approx(expected, rel=1e-3, abs=1e-5)
            moved += abs(expected) > 1e-3
    assert moved >= 8


def test_of_detr_it_is_the_attention_of_the_detections_query():
    model, inputs = double("DETR"), {"image": item(48, 64, [[8, 8, 40, 40]], [1], seed=1)["image"].double()}
    result = grad_cam(model, inputs, top=3)
    with torch.no_grad():
        whole = model([inputs])[0]["instances"]
    queries = whole.scores.argsort(descending=True)[:3].tolist()
    assert result.detections.scores.tolist() == pytest.approx(whole.scores[queries].tolist())
    seen = []
    hooks = [
        layer.multihead_attn.register_forward_pre_hook(lambda *call: seen.append(call[:2]))
        for layer in model.transformer.decoder.layers
    ]
    with torch.no_grad():
        model([inputs])
    for hook in hooks:
        hook.remove()
    for query, heat in zip(queries, result.heats, strict=True):
        expected = torch.zeros(heat.heat.numel(), dtype=torch.double)
        for attention, (asks, keys, _) in seen:
            width = asks.shape[-1]
            weight, bias = attention.in_proj_weight.detach(), attention.in_proj_bias.detach()
            q = asks[query, 0] @ weight[:width].T + bias[:width]
            k = keys[:, 0] @ weight[width : 2 * width].T + bias[width : 2 * width]
            for head in range(attention.num_heads):
                part = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
                expected += (k[:, part] @ q[part] / attention.head_dim**0.5).softmax(0)
        expected = (expected / expected.max()).view(heat.heat.shape)
        torch.testing.assert_close(heat.heat.double(), expected, atol=1e-5, rtol=0)
        assert heat.level == "encoder"


@pytest.mark.parametrize("detector", ["RetinaNet", "Cascade R-CNN", "DETR"])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_was(detector, training):
    model, inputs = build_small(BACKBONES["ConvNeXt"], detector, "LoRA"), item(48, 64, [], [], seed=1)
    model.train(training)
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    first.train(not training)  # a mode of its own
    name, marked = [pair for pair in model.named_parameters() if pair[1].requires_grad][-1]
    marked.grad = torch.ones_like(marked)

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
    grad_cam(model, inputs)
    assert state() == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert marked.grad.eq(1).all(), name
    with pytest.raises(ValueError, match="no level 'p9'; it has "):
        grad_cam(model, inputs, ["p9"])
    assert state() == before


def test_heat_lies_in_its_range_and_covers_the_image(inputs):
    result = grad_cam(build("lora"), inputs, class_index=2, top=50)
    assert result.padded_size == (64, 64)  # rows are padded from 60
    assert result.detections.pred_classes.eq(2).all()
    assert result.detections.scores.diff().le(0).all()
    assert len(result.detections) == len(result.heats) == len(result.detections.heat_index)
    for index, found in enumerate(result.heats):
        heat = result.on_image(index, 120, 128)
        assert heat.shape == (120, 128)
        assert 0 <= heat.min() <= heat.max() <= 1
        assert found.heat.max() in (0, 1)
    index = next(index for index, found in enumerate(result.heats) if found.level == "p3")
    whole = result.heats[index].heat
    expected = torch.nn.functional.interpolate(whole[None, None], size=(64, 64), mode="bilinear")[0, 0, :60]
    torch.testing.assert_close(result.on_image(index, 60, 64), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("detector", ["RetinaNet", "Faster R-CNN", "DETR"])
def test_no_detections_no_heat(detector):
    model = build_small(BACKBONES["ConvNeXt"], detector, "probe")
    result = grad_cam(model, item(48, 64, [], [], seed=1), score_threshold=1.0)
    assert len(result.detections) == len(result.heats) == 0


def test_wrong_uses(inputs):
    model = build("full")
    with pytest.raises(ValueError, match="no level 'p9'; it has p3, p4, p5, p6, p7"):
        grad_cam(model, inputs, ["p9"])
    with pytest.raises(ValueError, match="and for DETR; this model is a Linear"):
        grad_cam(nn.Linear(1, 1), inputs, ["p3"])
    with pytest.raises(ValueError, match="class 3 of 3"):
        grad_cam(model, inputs, class_index=3)
    with pytest.raises(ValueError, match="top=0"):
        grad_cam(model, inputs, top=0)


def test_cold_places_stay_and_hot_ones_turn_red():
    image = np.full((4, 6, 3), 80, np.uint8)
    heat = np.zeros((4, 6))
    heat[:, 3:] = 1.0
    painted = overlay(image, heat)
    assert (painted[:, :3] == 80).all()
    assert (painted[:, 3:, 0] > painted[:, 3:, 2]).all()
    assert (image == 80).all()


def test_the_hottest_pixel():
    heat = np.zeros((4, 6))
    assert hottest_pixel(heat) is None
    heat[2, 5] = 0.5
    assert hottest_pixel(heat) == (5, 2)
