"""DETR as a detector: inputs, outputs, training, weights and configs."""

import copy
import json
import logging
import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.data.catalog import Metadata
from detectron2.utils.events import EventStorage
from helpers.detr_parts import Patches, image, tiny
from helpers.paths import ROOT

from loradet.adapters import freeze, lora, parameter_table
from loradet.backbones import TimmBackbone
from loradet.checkpoint import Checkpointer
from loradet.detectors.detr import (
    CategoryIds,
    DetrTransformer,
    TorchvisionResNet,
    coco_categories,
    load_detr_weights,
)
from loradet.model import check_classes

CONFIG = ROOT / "configs/common/models/detr.py"
BOXES = [[8.0, 8.0, 40.0, 30.0], [20.0, 10.0, 60.0, 50.0]]


def config(num_classes: int = 3):
    cfg = LazyConfig.load(str(CONFIG))
    cfg.model.num_classes = num_classes
    return cfg


def slim(cfg):
    """The config with a narrow transformer on ResNet-18."""
    cfg.model.backbone.module.depth = 18
    cfg.model.position_embedding.num_pos_feats = 8
    cfg.model.transformer.update(
        hidden_dim=16, num_heads=2, num_encoder_layers=1, num_decoder_layers=2, dim_feedforward=16
    )
    return cfg


def losses_of(model, inputs):
    with EventStorage() as storage:
        return model(inputs), {name: value for name, (value, _) in storage.latest().items()}


@pytest.fixture(scope="module")
def detr_r50():
    cfg = config(80)
    cfg.model.categories = L(coco_categories)()
    return instantiate(cfg.model)


@pytest.mark.golden
def test_names_shapes_and_trainable_weights_are_those_of_the_published_model(detr_r50, golden_root: Path):
    recorded = json.loads((golden_root / "detr/detr_r50_state_dict.json").read_text(encoding="utf-8"))
    parameters = dict(detr_r50.named_parameters())
    found = [
        [name, list(value.shape), "parameter" if name in parameters else "buffer"]
        for name, value in detr_r50.state_dict().items()
    ]
    assert found == [[name, shape, kind] for name, shape, _, kind, _ in recorded["entries"]]
    assert {name: p.requires_grad for name, p in parameters.items()} == {
        name: trains for name, _, _, kind, trains in recorded["entries"] if kind == "parameter"
    }
    counts = recorded["counts"]
    table = parameter_table(detr_r50)
    assert (table.all.total, table.all.trainable) == (counts["elements_parameters"], counts["elements_trainable"])
    assert table.parts["backbone"].total == counts["elements_backbone_parameters"]
    assert table.parts["neck"].total == 0


def test_a_published_file_loads_by_the_checkpointer_alone(detr_r50, tmp_path, caplog):
    weights = {name: torch.full_like(value, 0.5) for name, value in detr_r50.state_dict().items()}
    torch.save({"model": weights}, tmp_path / "detr-r50.pth")
    with caplog.at_level(logging.WARNING):
        DetectionCheckpointer(detr_r50).load(str(tmp_path / "detr-r50.pth"))
    assert not caplog.records
    assert all((value == 0.5).all() for value in detr_r50.state_dict().values())


def test_images_of_one_batch_do_not_see_each_other_or_the_padding():
    model = tiny().eval()
    inputs = [image(64, 97, seed=1), image(80, 48, seed=2), image(33, 112, seed=3)]
    with torch.no_grad():
        together = model(inputs)
        alone = [model([item])[0] for item in inputs]
    for found, expected in zip(together, alone):
        torch.testing.assert_close(found["instances"].scores, expected["instances"].scores)
        torch.testing.assert_close(
            found["instances"].pred_boxes.tensor, expected["instances"].pred_boxes.tensor, atol=1e-3, rtol=1e-4
        )


@pytest.mark.parametrize("options", [{"pre_norm": True}, {"enc_layers": 0}, {"enc_layers": 0, "pre_norm": True}])
def test_a_batch_without_padding_needs_no_mask(options):
    model = tiny(**options).eval()
    features, padding = torch.randn(2, 8, 3, 4), torch.zeros(2, 3, 4, dtype=torch.bool)
    with torch.no_grad():
        for found, expected in zip(model.predict(features, padding, is_padded=False), model.predict(features, padding)):
            torch.testing.assert_close(found, expected)


def test_detections_are_in_pixels_of_the_size_asked_for():
    model = tiny().eval()
    item = image(64, 96)
    with torch.no_grad():
        small = model([item])[0]["instances"]
        large = model([{**item, "height": 128, "width": 288}])[0]["instances"]
    assert small.image_size == (64, 96)
    assert large.image_size == (128, 288)
    assert len(small) == model.num_queries
    scale = torch.tensor([3.0, 2.0, 3.0, 2.0])
    torch.testing.assert_close(large.pred_boxes.tensor, small.pred_boxes.tensor * scale)


@pytest.mark.parametrize("aux_loss", [True, False])
def test_only_weighted_losses_are_trained_and_errors_are_logged(aux_loss):
    model = tiny(options={"aux_loss": aux_loss}, dec_layers=3).train()
    losses, logged = losses_of(model, [image(64, 64, BOXES, [0, 2])])
    suffixes = ["", "_0", "_1"] if aux_loss else [""]
    assert set(losses) == {f"{name}{s}" for name in ("loss_ce", "loss_bbox", "loss_giou") for s in suffixes}
    assert set(logged) == {"class_error", *(f"cardinality_error{s}" for s in suffixes)}
    assert all(value.requires_grad for value in losses.values())


@pytest.mark.parametrize("aux_loss", [True, False])
@pytest.mark.parametrize(
    "objects", [[([], []), ([], [])], [([], []), (BOXES, [0, 2])]], ids=["no objects", "one empty image"]
)
def test_every_trainable_parameter_gets_a_gradient(objects, aux_loss):
    model = tiny(options={"aux_loss": aux_loss}).train()
    losses, logged = losses_of(model, [image(64, 80 - 16 * i, *truth) for i, truth in enumerate(objects)])
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without
    if not objects[1][0]:
        assert losses["loss_bbox"] == losses["loss_giou"] == 0
        assert logged["class_error"] == 100


def test_a_frozen_backbone_with_lora_is_taken_as_it_is():
    atto = TimmBackbone("convnext_atto", out_features=["stage2"], depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))
    backbone = lora(freeze(atto), targets=["mlp.fc1"], rank=2, alpha=4.0)
    model = tiny(backbone=backbone)
    inputs = [image(64, 96, BOXES, [0, 1]), image(50, 40)]
    losses, _ = losses_of(model.train(), inputs)
    sum(losses.values()).backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}
    in_backbone = {name for name in trained if name.startswith("backbone.0.")}
    assert in_backbone
    assert all("lora_" in name for name in in_backbone)
    parts = parameter_table(model).parts
    assert parts["backbone"].trainable == sum(dict(model.named_parameters())[name].numel() for name in in_backbone)
    assert parts["head"].trainable == parts["head"].total > 0
    assert model.preprocess_image(inputs).tensor.shape[-1] % model.backbone.size_divisibility == 0
    assert len(model.eval()(inputs)) == 2


def test_a_whole_detector_is_frozen_but_for_its_heads_and_lora():
    heads = ["class_embed", "bbox_embed", "query_embed"]
    model = lora(freeze(tiny(), unfreeze=heads), targets=["linear1", "linear2"], rank=2, alpha=4.0).train()
    losses, _ = losses_of(model, [image(64, 80, BOXES, [0, 1]), image(48, 48)])
    assert len(losses) == 6
    sum(losses.values()).backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(name.split(".")[0] in heads or "lora_" in name for name in trained)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    c, ff, rank, classes, queries, layers = 32, 48, 2, 3, 6, 3
    assert count == (classes + 1) * (c + 1) + (2 * c + 4) * (c + 1) + queries * c + layers * 2 * rank * (c + ff)


def test_training_reduces_the_loss():
    model = tiny(seed=1).train()
    inputs = [image(64, 64, BOXES, [0, 2], seed=1), image(48, 64, BOXES[:1], [1], seed=2)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    totals = []
    for _ in range(40):
        losses, _ = losses_of(model, inputs)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.5 * totals[0]


def test_mixed_precision_keeps_boxes_and_losses_in_float32():
    model = tiny().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, _ = losses_of(model, [image(64, 64, BOXES, [0, 2]), image(64, 48)])
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = model([image(64, 64)])[0]["instances"]
    assert found.scores.dtype == found.pred_boxes.tensor.dtype == torch.float32


def test_copies_and_pickles_give_the_same():
    model = tiny().eval()
    inputs = [image(64, 64)]
    with torch.no_grad():
        expected = model(inputs)[0]["instances"].pred_boxes.tensor
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(inputs)[0]["instances"].pred_boxes.tensor, expected)


def test_sparse_logits_train_and_predict_contiguous_classes():
    ids = CategoryIds(dataset_ids=[3, 7, 90], logits=[3, 7, 90], num_logits=91)
    model = tiny(options={"categories": ids})
    assert model.class_embed.out_features == 92
    with torch.no_grad():
        model.class_embed.bias[12] = 50.0  # of no category: never the answer
        model.class_embed.bias[90] = 40.0
        found = model.eval()([image(64, 64)])[0]["instances"]
    assert set(found.pred_classes.tolist()) == {2}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    inputs = [image(32, 32, [[4.0, 4.0, 20.0, 15.0], [10.0, 5.0, 30.0, 25.0]], [2, 0])]
    model.train()
    for _ in range(50):
        losses, logged = losses_of(model, inputs)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert logged["class_error"] == 0
    best = model.eval()(inputs)[0]["instances"]
    top = best.scores.topk(2).indices
    assert sorted(best.pred_classes[top].tolist()) == [0, 2]


def test_a_file_loads_whole_or_says_what_was_left_out(tmp_path, caplog):
    source = tiny(seed=1)
    path = tmp_path / "detr.pth"
    torch.save({"model": source.state_dict()}, path)
    same = load_detr_weights(twin := tiny(seed=2), path)
    assert (same.left_out, same.missing) == ({}, [])
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in twin.state_dict().items())

    other = tiny(seed=2, num_classes=7, num_queries=4, enc_layers=0)
    fresh = other.class_embed.weight.detach().clone()
    with caplog.at_level(logging.WARNING):
        found = load_detr_weights(other, path)
    assert found.missing == ["class_embed.weight", "class_embed.bias", "query_embed.weight"]
    encoder = {name for name in source.state_dict() if name.startswith("transformer.encoder")}
    assert set(found.left_out) == {*found.missing, *encoder}
    assert found.left_out["class_embed.bias"] == "(4,) in the file, (8,) in the model"
    assert "class_embed.bias" in caplog.text
    assert torch.equal(other.class_embed.weight, fresh)
    assert torch.equal(other.bbox_embed.layers[2].weight, source.bbox_embed.layers[2].weight)


def test_a_run_starts_from_a_file_with_another_class_head(tmp_path, caplog):
    source, model = tiny(seed=1), tiny(seed=2, num_classes=7)
    torch.save({"model": source.state_dict()}, tmp_path / "detr.pth")
    with caplog.at_level(logging.INFO):
        Checkpointer(model).load_weights(str(tmp_path / "detr.pth"), strict=False)
    assert "class_embed.weight" in caplog.text
    assert torch.equal(model.query_embed.weight, source.query_embed.weight)


def test_a_run_refuses_classes_in_another_order_than_the_mapping_s():
    ids = CategoryIds(dataset_ids=[3, 7, 90], logits=[3, 7, 90], num_logits=91)
    model, data = tiny(options={"categories": ids}), Metadata(thing_classes=["a", "b", "c"])
    check_classes(model, data)
    data.thing_dataset_id_to_contiguous_id = {90: 2, 3: 0, 7: 1}
    check_classes(model, data)
    other = Metadata(thing_classes=["b", "a", "c"], thing_dataset_id_to_contiguous_id={7: 0, 3: 1, 90: 2})
    with pytest.raises(ValueError, match="Class 0 of the data is 'id 7'"):
        check_classes(model, other)
    check_classes(tiny(), other)


def test_rows_of_the_class_head_can_be_chosen(tmp_path):
    ids = CategoryIds(dataset_ids=[3, 7, 90], logits=[3, 7, 90], num_logits=91)
    source = tiny(seed=1, options={"categories": ids})
    torch.save({"model": source.state_dict()}, tmp_path / "detr.pth")
    packed = tiny(seed=2)
    found = load_detr_weights(packed, tmp_path / "detr.pth", class_rows=ids.head_rows)
    assert not found.left_out
    inputs = [image(64, 64)]
    with torch.no_grad():
        a, b = (model.eval()(inputs)[0]["instances"] for model in (source, packed))
    assert torch.equal(a.pred_classes, b.pred_classes)
    with pytest.raises(ValueError, match="has 92 rows"):
        load_detr_weights(packed, tmp_path / "detr.pth", class_rows=[0, 92])


def test_lora_and_other_backbones_do_not_stand_in_the_way_of_a_file(tmp_path):
    source = tiny(seed=1)
    torch.save(source.state_dict(), tmp_path / "detr.pth")
    adapted = lora(tiny(seed=2), targets=["linear1", "linear2"], rank=2, alpha=4.0)
    assert load_detr_weights(adapted, tmp_path / "detr.pth").missing == []
    other = tiny(seed=2, backbone=Renamed())
    found = load_detr_weights(other, tmp_path / "detr.pth")
    assert found.missing == ["backbone.0.inner.proj.weight", "backbone.0.inner.proj.bias"]
    assert set(found.left_out) == {"backbone.0.proj.weight", "backbone.0.proj.bias"}


def test_half_a_backbone_is_not_loaded(tmp_path):
    deeper = tiny(seed=1)
    deeper.backbone.wrapped.second = torch.nn.Conv2d(3, 3, 1)
    torch.save(deeper.state_dict(), tmp_path / "deeper.pth")
    torch.save(tiny(seed=1).state_dict(), tmp_path / "detr.pth")
    with pytest.raises(ValueError, match=r"deeper\.pth does not fit .*second\.bias \(not in the model\)"):
        load_detr_weights(tiny(seed=2), tmp_path / "deeper.pth")
    with pytest.raises(ValueError, match=r"detr\.pth does not fit .*second\.bias \(not in the file\)"):
        load_detr_weights(deeper, tmp_path / "detr.pth")


class Renamed(Patches):
    """The same under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.ModuleDict({"proj": self.proj})
        del self.proj

    def forward(self, x):
        return {"res5": self.inner["proj"](x)}


def test_a_file_of_another_shape_is_an_error_and_loads_nothing(tmp_path):
    torch.save(tiny(seed=1).state_dict(), tmp_path / "detr.pth")
    for other in ({"dim_feedforward": 40}, {"dec_layers": 3}):
        model = tiny(seed=2, **other)
        before = model.bbox_embed.layers[0].weight.clone()
        with pytest.raises(ValueError, match=r"detr.pth does not fit the model: transformer\."):
            load_detr_weights(model, tmp_path / "detr.pth")
        assert torch.equal(model.bbox_embed.layers[0].weight, before)


def test_the_config_is_plain_yaml_and_comes_back(tmp_path):
    cfg = slim(config())
    cfg.model.num_queries = 5
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    model = instantiate(LazyConfig.load(str(tmp_path / "config.yaml")).model)
    assert (model.num_classes, model.query_embed.num_embeddings, len(model.transformer.encoder.layers)) == (3, 5, 1)
    losses, _ = losses_of(model.train(), [image(64, 80, BOXES, [0, 2])])
    assert len(losses) == 6
    assert not model.backbone.wrapped.body.layer1[0].conv1.weight.requires_grad
    assert model.backbone.wrapped.body.layer2[0].conv1.weight.requires_grad


def test_trainable_parameters_of_ten_classes_follow_from_the_widths():
    cfg = config(10)
    cfg.model.backbone = L(TorchvisionResNet)(norm="FrozenBN")
    with torch.device("meta"):
        model = instantiate(cfg.model)
    c, heads = 256, {"class_embed": 0, "bbox_embed": 0, "query_embed": 0}
    for name, parameter in model.named_parameters():
        if name.split(".")[0] in heads:
            heads[name.split(".")[0]] += parameter.numel()
    assert heads == {"class_embed": 11 * (c + 1), "bbox_embed": 2 * c * (c + 1) + 4 * (c + 1), "query_embed": 100 * c}
    assert sum(heads.values()) == 161_039
    assert round(parameter_table(model).all.total / 1e6, 1) == 41.5


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_resnet_outputs_sizes_and_norms(norm):
    backbone = TorchvisionResNet(depth=18, out_features=["res4", "res3"], norm=norm).train()
    outputs = backbone(torch.randn(2, 3, 65, 90))
    assert list(outputs) == list(backbone.output_shape()) == ["res3", "res4"]
    for name, output in outputs.items():
        shape = backbone.output_shape()[name]
        assert output.shape == (2, shape.channels, -(-65 // shape.stride), -(-90 // shape.stride))
    assert not hasattr(backbone.body, "layer4")
    trains = any("bn1.weight" in name for name, _ in backbone.named_parameters())
    assert trains == (norm == "BN")


def test_resnet_loads_torchvisions_file_and_no_other(tmp_path):
    torch.manual_seed(3)
    net = torchvision.models.resnet18(weights=None)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.running_mean)
    torch.save(net.state_dict(), tmp_path / "resnet18.pth")
    backbone = TorchvisionResNet(depth=18, weights=tmp_path / "resnet18.pth").eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = torch.nn.Sequential(*list(net.eval().children())[:-2])(x)
        torch.testing.assert_close(backbone(x)["res5"], expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"no torchvision ResNet-34: missing are layer1\.2"):
        TorchvisionResNet(depth=34, weights=tmp_path / "resnet18.pth")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tiny(options={"categories": coco_categories()}), "num_classes=3, but categories maps 80"),
        (lambda: tiny(num_queries=0), "num_queries=0"),
        (lambda: tiny(dec_layers=0), "num_decoder_layers=0"),
        (lambda: tiny(nheads=5), "hidden_dim=32 is no multiple of num_heads=5"),
        (lambda: DetrTransformer(activation="glu"), "expected one of relu, gelu"),
        (lambda: TorchvisionResNet(depth=20), "18, 34, 50"),
        (lambda: TorchvisionResNet(norm="GN"), "FrozenBN or BN"),
    ],
)
def test_arguments_that_cannot_be(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_inputs_that_cannot_be():
    model = tiny().train()
    with pytest.raises(ValueError, match="contiguous ids"):
        losses_of(model, [image(64, 64, BOXES, [0, 90])])
    with pytest.raises(ValueError, match="needs `instances`"):
        losses_of(model, [{"image": image(64, 64)["image"]}])
    inputs = [image(64, 64), {**image(64, 64, BOXES, [0, 1]), "file_name": "b.png"}]
    inputs[1]["instances"].gt_boxes.tensor[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"gt_boxes of b\.png hold NaN"):
        losses_of(model, inputs)
