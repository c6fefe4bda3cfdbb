"""DETR against numbers recorded from the official code."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from helpers.detr_parts import Nothing, Patches, build, criterion, layer_names, read, targets, under

from loradet.detectors.detr import PositionEmbeddingSine, coco_categories, padding_mask

pytestmark = pytest.mark.golden

MODELS = ["model_post_norm", "model_pre_norm", "model_enc0"]
CASES = ["mixed", "all_empty", "more_targets_than_queries", "other_weights"]


@pytest.fixture(scope="module")
def golden(golden_root: Path) -> Path:
    return golden_root / "detr"


def close(found, expected, atol=1e-4, rtol=1e-4):
    torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)


def check_losses(losses: dict, metrics: dict, recorded: dict) -> None:
    """Every recorded number, and no other."""
    assert losses.keys() | metrics.keys() == recorded.keys()
    for name, value in recorded.items():
        if name in losses:
            close(losses[name], value, atol=1e-5)
        else:
            assert metrics[name] == pytest.approx(value.item(), abs=1e-3), name


def check_matches(matcher, logits, boxes, truth, recorded: dict) -> None:
    costs, pairs = matcher.costs(logits, boxes, truth), matcher(logits, boxes, truth)
    for number, layer in enumerate(layer_names(len(logits))):
        for image in range(len(truth)):
            key = f"{layer}/{image}"
            close(costs[image][number], recorded[f"{key}/cost"])
            assert torch.equal(pairs[image][0][number], recorded[f"{key}/src"]), key
            assert torch.equal(pairs[image][1][number], recorded[f"{key}/tgt"]), key


def check_gradients(named: list, arrays: dict) -> None:
    total = arrays["gradnorm_total"].item()
    norms, whole = under(arrays, "gradnorm/"), under(arrays, "grad/")
    assert {name for name, _ in named} == norms.keys()
    assert whole.keys() <= norms.keys()
    for name, gradient in named:
        value = norms[name].item()
        assert abs(gradient.norm().item() - value) <= 1e-3 * value + 1e-5 * total, name
        if name in whole:
            close(gradient, whole[name], atol=1e-5 * total, rtol=0)
    everything = torch.stack([gradient.norm() for _, gradient in named]).norm().item()
    assert everything == pytest.approx(total, rel=1e-3)


@pytest.fixture(scope="module", params=MODELS)
def recorded(request, golden: Path):
    config, arrays = read(golden / f"{request.param}.npz")
    model = build(Nothing(config["in_channels"]), config).train()
    model.load_state_dict(under(arrays, "w/"), strict=True)
    return config, arrays, model


def test_position_embeddings(golden: Path):
    config, arrays = read(golden / "position_embedding.npz")
    for number, entry in enumerate(config):
        options = {name: entry[name] for name in ("num_pos_feats", "temperature", "normalize")}
        found = PositionEmbeddingSine(**options)(arrays[f"{number}/mask"])
        close(found, arrays[f"{number}/pos"], atol=1e-5, rtol=0)


def test_padding_masks(golden: Path):
    config, arrays = read(golden / "padding_masks.npz")
    differ = 0
    for number, entry in enumerate(config["masks"]):
        recorded = under(arrays, f"mask/{number}/")
        padded, sizes = entry["padded"], entry["sizes"]
        cells = [-(-side // entry["stride"]) for side in padded]
        assert torch.equal(padding_mask(sizes, padded, padded), recorded["image_mask"])
        assert torch.equal(padding_mask(sizes, padded, cells), recorded["main_repository"])
        differ += not torch.equal(recorded["main_repository"], recorded["d2_wrapper"])
    assert differ, "the recorded masks are meant to tell the two readings apart"
    batch = ImageList.from_tensors([arrays[f"nested/in/{i}"] for i in range(len(config["nested"]))])
    assert torch.equal(batch.tensor, arrays["nested/tensors"])
    size = batch.tensor.shape[-2:]
    assert torch.equal(padding_mask(batch.image_sizes, size, size), arrays["nested/mask"])


def test_layers_of_the_transformer(recorded):
    config, arrays, model = recorded
    seen = []
    hooks = [
        layer.register_forward_hook(lambda _, __, output: seen.append(output))
        for layer in model.transformer.encoder.layers
    ]
    position = model.position_embedding(arrays["in/mask"])
    close(position, arrays["out/pos"], atol=1e-5, rtol=0)
    decoded, memory = model.transformer(
        model.input_proj(arrays["in/features"]), position, model.query_embed.weight, arrays["in/mask"]
    )
    for hook in hooks:
        hook.remove()
    assert len(seen) == config["enc_layers"]
    for number, output in enumerate(seen):
        close(output, arrays[f"out/enc_layer_{number}"])
    close(memory, arrays["out/memory"])
    close(decoded, arrays["out/hs"])


def test_predictions_matches_losses_and_gradients(recorded):
    config, arrays, model = recorded
    features = arrays["in/features"].clone().requires_grad_()
    logits, boxes = model.predict(features, arrays["in/mask"])
    assert len(logits) == len(boxes) == config["dec_layers"]
    for number, layer in enumerate(layer_names(config["dec_layers"])):
        prefix = "out/" if layer == "last" else f"out/{layer}/"
        close(logits[number], arrays[f"{prefix}pred_logits"])
        close(boxes[number], arrays[f"{prefix}pred_boxes"])

    truth = targets(arrays, len(features))
    check_matches(model.criterion.matcher, logits, boxes, truth, under(arrays, "match/"))
    found = model.criterion(logits, boxes, truth)
    check_losses(found.losses, found.metrics, under(arrays, "loss/"))
    total = sum(model.criterion.weighted(found.losses).values())
    close(total, arrays["loss_total"], atol=1e-5)

    named = list(model.named_parameters())
    *gradients, by_features = torch.autograd.grad(total, [*(parameter for _, parameter in named), features])
    check_gradients([(name, gradient) for (name, _), gradient in zip(named, gradients)], arrays)
    close(by_features, arrays["grad_in/features"], atol=1e-5 * arrays["gradnorm_total"].item(), rtol=0)


def test_inference_runs_the_last_layer_alone_and_scales_its_boxes(recorded):
    _, arrays, model = recorded
    model.eval()
    with torch.no_grad():
        logits, boxes = model.predict(arrays["in/features"], arrays["in/mask"])
    model.train()
    assert len(logits) == 1
    sizes = [tuple(size) for size in arrays["post/target_sizes"].tolist()]
    for number, found in enumerate(model.detections(logits[0], boxes[0], sizes)):
        recorded = under(arrays, f"post/{number}/")
        close(found.scores, recorded["scores"])
        assert torch.equal(found.pred_classes, recorded["labels"])
        close(found.pred_boxes.tensor, recorded["boxes"], atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_criterion_alone(golden: Path, name: str):
    config, arrays = read(golden / "criterion.npz")
    assert [case["name"] for case in config["cases"]] == CASES
    case, arrays = next(c for c in config["cases"] if c["name"] == name), under(arrays, f"{name}/")
    layers = layer_names(config["aux"] + 1)
    logits, boxes = (
        torch.stack([arrays[f"in/{layer}/{kind}"] for layer in layers]).requires_grad_()
        for kind in ("pred_logits", "pred_boxes")
    )
    truth = targets(arrays, config["batch"])
    own = criterion(case)
    assert own.loss_weights == {k: v for k, v in config["weight_dict"].items() if k.count("_") == 1}
    check_matches(own.matcher, logits, boxes, truth, under(arrays, "match/"))
    found = own(logits, boxes, truth)
    check_losses(found.losses, found.metrics, under(arrays, "loss/"))
    weighted = own.weighted(found.losses)
    assert weighted.keys() == config["weight_dict"].keys()
    total = sum(weighted.values())
    close(total, arrays["loss_total"], atol=1e-5)
    total.backward()
    for number, layer in enumerate(layers):
        for tensor, kind in ((logits, "pred_logits"), (boxes, "pred_boxes")):
            close(tensor.grad[number], arrays[f"grad/{layer}/{kind}"], atol=1e-5)


@pytest.fixture(scope="module")
def meta_arch(golden: Path):
    config, arrays = read(golden / "d2_meta_arch.npz")
    model = build(Patches(config["channels"], config["stride"]), config)
    weights = {official_name(key): value for key, value in under(arrays, "w/detr.").items()}
    model.load_state_dict(weights, strict=True)
    close(model.criterion.class_weights(config["num_classes"]), arrays["w/criterion.empty_weight"])
    return config, arrays, model


def official_name(key: str) -> str:
    """The recorded wrapper has one more level in front of the backbone."""
    return key.removeprefix("detr.").replace("backbone.0.backbone.", "backbone.0.")


def inputs_of(config: dict, arrays: dict, sized: bool = True) -> list[dict]:
    inputs = []
    for number, size in enumerate(config["sizes"]):
        item = under(arrays, f"in/{number}/")
        truth = Instances(tuple(size), gt_boxes=Boxes(item["gt_boxes"]), gt_classes=item["gt_classes"])
        height, width = item["height_width"].tolist()
        asked = {"height": height, "width": width} if sized else {}
        inputs.append({"image": item["image"], "instances": truth, **asked})
    return inputs


def test_meta_architecture_in_training(meta_arch):
    config, arrays, model = meta_arch
    inputs = inputs_of(config, arrays)
    model.train()
    batch = model.preprocess_image(inputs)
    close(batch.tensor, arrays["train/images"], atol=1e-5, rtol=0)
    features = model.backbone(batch.tensor)["res5"]
    close(features, arrays["train/features"])
    mask = padding_mask(batch.image_sizes, batch.tensor.shape[-2:], features.shape[-2:])
    assert torch.equal(mask, arrays["train/mask"])
    logits, boxes = model.predict(features, mask)
    for number, layer in enumerate(layer_names(config["dec_layers"])):
        prefix = "train/" if layer == "last" else f"train/{layer}/"
        close(logits[number], arrays[f"{prefix}pred_logits"])
        close(boxes[number], arrays[f"{prefix}pred_boxes"])
    check_matches(model.criterion.matcher, logits, boxes, targets(arrays, len(inputs)), under(arrays, "match/"))

    with EventStorage() as storage:
        losses = model(inputs)
    metrics = {name: value for name, (value, _) in storage.latest().items()}
    check_losses(losses, metrics, under(arrays, "loss/"))
    total = sum(losses.values())
    close(total, arrays["loss_total"], atol=1e-5)
    assert total.item() + sum(metrics.values()) == pytest.approx(arrays["loss_sum_of_all_entries"].item(), rel=1e-4)

    model.zero_grad()
    total.backward()
    named = [(name, parameter.grad) for name, parameter in model.named_parameters()]
    renamed = {
        f"{kind}/{official_name(key)}": value
        for kind in ("grad", "gradnorm")
        for key, value in under(arrays, f"{kind}/").items()
    }
    check_gradients(named, {**renamed, "gradnorm_total": arrays["gradnorm_total"]})


@pytest.mark.parametrize(("prefix", "sized"), [("eval", True), ("eval_no_size", False)])
def test_meta_architecture_in_inference(meta_arch, prefix: str, sized: bool):
    config, arrays, model = meta_arch
    model.eval()
    with torch.no_grad():
        outputs = model(inputs_of(config, arrays, sized))
    assert len(outputs) == len(config["sizes"])
    for number, output in enumerate(outputs):
        found, recorded = output["instances"], under(arrays, f"{prefix}/{number}/")
        assert list(found.image_size) == recorded["image_size"].tolist()
        close(found.pred_boxes.tensor, recorded["pred_boxes"], atol=1e-2, rtol=0)
        close(found.scores, recorded["scores"])
        assert torch.equal(found.pred_classes, recorded["pred_classes"])


def test_rows_of_the_class_head_that_the_official_converter_keeps(golden: Path):
    recorded = json.loads((golden / "detr_r50_to_d2.json").read_text(encoding="utf-8"))
    assert list(coco_categories().head_rows) == recorded["class_embed_rows_kept"]
