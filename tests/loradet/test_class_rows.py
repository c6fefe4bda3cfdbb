"""Rows of a detector's head follow the names of classes."""

import copy

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.fcos import FCOSHead
from helpers import small_models
from torch import nn

from loradet.adapters.filled import mark_loaded
from loradet.backbones.export import export_weights
from loradet.checkpoint import Checkpointer
from loradet.class_rows import class_rows, keep_rows_by_name
from loradet.weight_classes import WeightClasses, compare_classes, header_of, read_weight_classes

HERE, THERE = ("a", "b", "c"), ("c", "d", "a")


def head_rows(model):
    """By tensor: rows by class, with those of none at the end."""
    state, found = model.state_dict(), {}
    for rows in class_rows(model):
        tensor = state[rows.name]
        classes = tensor[: len(tensor) - rows.rest].unflatten(0, (rows.groups, 3, rows.each))
        found[rows.name] = [*classes.unbind(1), tensor[len(tensor) - rows.rest :]]
    return found


@pytest.mark.parametrize(
    ("detector", "tensors"),
    [
        ("RetinaNet", ["head.cls_score.weight", "head.cls_score.bias"]),
        (
            "Faster R-CNN",
            [f"roi_heads.box_predictor.{n}.{t}" for n in ("cls_score", "bbox_pred") for t in ("weight", "bias")],
        ),
        ("Cascade R-CNN", [f"roi_heads.box_predictor.{i}.cls_score.{t}" for i in range(3) for t in ("weight", "bias")]),
        ("DETR", ["class_embed.weight", "class_embed.bias"]),
    ],
)
def test_rows_of_classes_that_both_have_are_kept(detector, tensors, tmp_path, caplog):
    backbone = small_models.BACKBONES["ConvNeXt"]
    source, model = (small_models.build(backbone, detector, "full", seed=seed) for seed in (1, 2))
    with torch.no_grad():  # biases begin equal
        for net in (source, model):
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.01)
    Checkpointer(source, tmp_path, classes=WeightClasses(THERE)).save("source", only_model=True)
    start, old = copy.deepcopy(head_rows(model)), head_rows(source)
    assert sorted(start) == sorted(tensors)
    with caplog.at_level("INFO"):
        Checkpointer(model, classes=WeightClasses(HERE)).load_weights(str(tmp_path / "source.pth"), strict=False)
    for name, (a, b, c, rest) in head_rows(model).items():
        assert torch.equal(a, old[name][2]) and torch.equal(c, old[name][0]), name
        assert torch.equal(b, start[name][1]) and torch.equal(rest, old[name][3]), name
    assert "rows of the head by class name: a, c kept, b new" in caplog.text


def test_a_file_that_does_not_name_its_classes_is_taken_as_it_comes(tmp_path, caplog):
    source, model = (small_models.build(small_models.BACKBONES["ConvNeXt"], "DETR", "full", seed=s) for s in (1, 2))
    Checkpointer(source, tmp_path).save("source", only_model=True)
    assert read_weight_classes(tmp_path / "source.pth") is None
    with caplog.at_level("INFO"):
        Checkpointer(model, classes=WeightClasses(HERE)).load_weights(str(tmp_path / "source.pth"), strict=False)
    assert torch.equal(model.class_embed.weight, source.class_embed.weight)
    assert "does not name its classes, so rows of the head that fit are taken as they come" in caplog.text


def test_a_start_for_other_classes_is_no_warning_and_tells_what_keeps_its_weights(tmp_path, caplog):
    """As the custom configs start: neck and head without names of classes, the backbone from a file of its own."""
    source, model = (
        small_models.build(small_models.BACKBONES["ConvNeXt"], "RetinaNet", "full", seed=s) for s in (1, 2)
    )
    state = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("backbone.bottom_up.")}
    for name in ("head.cls_score.weight", "head.cls_score.bias"):
        state[name] = state[name][:-1]
    torch.save({"model": state}, tmp_path / "start.pth")
    mark_loaded(model.backbone.bottom_up)
    with caplog.at_level("INFO", logger="loradet.checkpoint"):
        Checkpointer(model, classes=WeightClasses(HERE)).load_weights(str(tmp_path / "start.pth"), strict=False)
    (record,) = [record for record in caplog.records if record.name == "loradet.checkpoint"]
    assert record.levelname == "INFO"
    assert "(it keeps the weights that it has), neck " in record.message
    assert record.message.endswith(
        "; for another number of classes, so left at the start: head.cls_score.bias, head.cls_score.weight."
    )


def test_classes_are_compared_by_name(tmp_path, caplog):
    weights = WeightClasses(HERE, (4, 5, 6))
    assert compare_classes(weights, HERE, source="w.pth", data="d.json") is None
    assert compare_classes(weights, ["c", "b", "a"], source="w.pth", data="d.json") == list(HERE)
    assert "w.pth numbers its classes as a, b, c, d.json as c, b, a" in caplog.text
    with pytest.raises(ValueError, match=r"w\.pth was trained on the classes a, b, c; d\.json has a, b\."):
        compare_classes(weights, ["a", "b"], source="w.pth", data="d.json")
    assert compare_classes(None, HERE, source="w.pth", data="d.json") is None
    assert "w.pth does not say its classes" in caplog.text
    with pytest.raises(ValueError, match=r"w\.pth: its classes are \['a'\]; expected"):
        WeightClasses.parse(["a"], "w.pth")
    assert WeightClasses.parse(weights.to_dict(), "w.pth") == weights
    (tmp_path / "broken.pth").write_bytes(b"PK")
    assert read_weight_classes(tmp_path / "broken.pth") is None is read_weight_classes(tmp_path / "none.pth")


def test_classes_travel_in_the_header_of_safetensors_too(tmp_path, caplog):
    source, model = (small_models.build(small_models.BACKBONES["ConvNeXt"], "DETR", "full", seed=s) for s in (1, 2))
    Checkpointer(source, tmp_path, classes=WeightClasses(THERE, (3, 4, 5))).save("source", only_model=True)
    file, output = tmp_path / "source.pth", tmp_path / "rest.safetensors"
    export_weights(file, output, prefix="backbone.", rest=True, dtype=torch.float32, metadata=header_of(file))
    assert read_weight_classes(output) == WeightClasses(THERE, (3, 4, 5))
    with caplog.at_level("INFO"):
        Checkpointer(model, classes=WeightClasses(HERE)).load_weights(str(output), strict=False)
    assert torch.equal(model.class_embed.weight[0], source.class_embed.weight[2])
    assert "a, c kept, b new" in caplog.text


def test_the_head_of_fcos_has_one_anchor():
    sizes = {"input_shape": [ShapeSpec(channels=4)], "conv_dims": [4]}
    here, there = (nn.ModuleDict({"head": FCOSHead(num_classes=n, **sizes)}) for n in (2, 3))
    state = there.state_dict()
    kept = keep_rows_by_name(here, state, ["a", "b", "c"], ["c", "a"])
    assert sorted(kept) == ["head.cls_score.bias", "head.cls_score.weight"]
    assert torch.equal(kept["head.cls_score.weight"], state["head.cls_score.weight"][[2, 0]])
