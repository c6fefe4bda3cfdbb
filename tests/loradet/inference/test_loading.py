"""Checkpoints, adapters and merged models load into the same detector."""

import json
import logging

import pytest
import torch
from detectron2.data import DatasetCatalog
from helpers.random_detector import NAMES, assert_same_detections, config, tensor
from omegaconf import OmegaConf

from loradet.adapters.layer import adapter_layers
from loradet.config.edits import without_lora, without_weights
from loradet.config.splits import evaluation_mapper
from loradet.export.resizing import Resizing
from loradet.inference.classes import find_classes
from loradet.model import build_model, load_detector, number_of_classes
from loradet.visualization.loaded_split import evaluation_mode, load_split


def detections(model):
    with torch.no_grad():
        return model([{"image": tensor(192, 256), "height": 300, "width": 400}])[0]["instances"]


@pytest.fixture(scope="module")
def reference(weights):
    return detections(load_detector(config(), weights / "model.pth"))


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("file", ["model.pth", "merged.pth", "adapter.safetensors"])
def test_every_kind_of_file_finds_the_same(weights, reference, file, merge, caplog):
    model = load_detector(config(f"train.init_checkpoint={weights / 'base.pth'}"), weights / file, merge=merge)
    assert_same_detections(detections(model), reference)
    assert not model.training
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    assert bool(list(adapter_layers(model))) == (not merge and file != "merged.pth")


@pytest.mark.parametrize("file", ["model.pth", "merged.pth"])
def test_pictures_take_merged_weights_too(weights, reference, file, tmp_path):
    image = {"id": 1, "file_name": "a.png", "width": 64, "height": 64}
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"images": [image], "annotations": [], "categories": categories}))
    (tmp_path / "a.png").touch()
    files = [f"data.train_json={data}", f"data.val_json={data}", f"data.val_images={tmp_path}"]
    loaded = load_split(config(f"data.name=pictures_{file}", *files), weights / file, "val")
    with evaluation_mode(loaded.model):
        assert_same_detections(detections(loaded.model), reference)
    DatasetCatalog.remove(f"pictures_{file}_val")


def test_without_lora_keeps_everything_else():
    cfg = config()
    plain = build_model(without_lora(cfg.model))
    adapted = build_model(cfg.model)
    names = {name for name in adapted.state_dict() if "lora_" not in name}
    assert set(plain.state_dict()) == names < set(adapted.state_dict())
    assert all(parameter.requires_grad is False for parameter in plain.backbone.bottom_up.parameters())
    assert cfg.model.backbone.bottom_up.rank == 2  # the given one stays


def test_without_weights_reaches_nested_calls_and_leaves_numbers():
    cfg = config("+model.backbone.bottom_up.module.module.pretrained=true")
    cfg.model.backbone.bottom_up.module.module.weights = "asset://none.safetensors"
    edited = without_weights(cfg.model)
    backbone = edited.backbone.bottom_up.module.module
    assert backbone.pretrained is False and backbone.weights is None
    assert list(edited.box2box_transform.weights) == [1.0, 1.0, 1.0, 1.0]
    assert cfg.model.backbone.bottom_up.module.module.pretrained is True
    build_model(edited)


def test_a_missing_data_set_is_answered_by_a_hint():
    with pytest.raises(FileNotFoundError, match=r"model\.num_classes=2"):
        build_model(config("data.classes=null").model)
    with pytest.raises(ValueError, match=r"no value for data\.root.*model\.num_classes=2"):
        build_model(config("data.classes=null", "data.root=???").model)
    build_model(config("data.classes=null", "model.num_classes=2").model)


def test_files_that_do_not_fit_are_named(weights, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        load_detector(config(), tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"base\.pth"):
        load_detector(config(), weights / "base.pth")
    (tmp_path / "broken.pth").write_bytes((weights / "model.pth").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"broken\.pth"):
        load_detector(config(), tmp_path / "broken.pth")


def coco(path, **info):
    categories = [{"id": 20, "name": "tank"}, {"id": 5, "name": "ship"}, {"id": 11, "name": "car"}]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"info": info, "images": [], "annotations": [], "categories": categories}))
    return f"data.train_json={path}"


def test_class_names_come_from_what_knows_them_best(weights, tmp_path):
    file = coco(tmp_path / "train.json", synthetic=True)
    from_adapter = find_classes(config(file), weights / "adapter.safetensors", 3)
    assert from_adapter.names == ["tank", "car", "ship"] and from_adapter.ids == [4, 7, 9]
    with pytest.raises(ValueError, match=r"trained on the classes tank, car, ship; data\.classes has a, b, c"):
        find_classes(config("data.classes=[a,b,c]"), weights / "adapter.safetensors", 3)
    named = find_classes(config(file), "model.pth", 3)
    assert named.names == NAMES and named.ids == [5, 11, 20] and named.synthetic
    assert find_classes(config(file, "data.classes=null"), "model.pth", 3).names == ["ship", "car", "tank"]
    no_file = find_classes(config(), "model.pth", 3)
    assert no_file.names == NAMES and no_file.ids == [1, 2, 3] and not no_file.synthetic
    assert find_classes(OmegaConf.create({}), "model.pth", 2).names == ["class 1", "class 2"]
    assert find_classes(config("data.root=???", "data.classes=null"), "m.pth", 1).names == ["class 1"]


def test_class_names_that_do_not_fit_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"3 classes .*the model has 2"):
        find_classes(config(), "model.pth", 2)
    with pytest.raises(ValueError, match=r"plane; .*train\.json has ship, car, tank"):
        find_classes(config(coco(tmp_path / "train.json"), "data.classes=[ship,plane]"), "model.pth", 2)


def test_one_and_two_stage_detectors_tell_their_classes():
    model = torch.nn.Module()
    with pytest.raises(ValueError, match="num_classes"):
        number_of_classes(model)
    model.roi_heads = torch.nn.Module()
    model.roi_heads.num_classes = 7
    assert number_of_classes(model) == 7
    model.num_classes = 3
    assert number_of_classes(model) == 3


def test_the_mapper_is_that_of_an_evaluation_split():
    cfg = config()
    assert evaluation_mapper(cfg) is cfg.dataloader.val.mapper
    cfg.dataloader.val = None
    assert evaluation_mapper(cfg) is cfg.dataloader.test.mapper
    cfg.dataloader.test = None
    with pytest.raises(ValueError, match=r"dataloader\.val\.mapper"):
        evaluation_mapper(cfg)


@pytest.mark.parametrize(
    "resizing, largest",
    [
        (Resizing(), None),
        (Resizing(size=(30, 40)), (30, 40)),
        (Resizing(short_edge=30, max_size=50), (30, 50)),
        (Resizing(short_edge=30, interpolation=3), (30, 30)),
        (Resizing(short_edge=30, max_size=20), (20, 20)),
    ],
)
def test_resizing_survives_json_and_augmentations(resizing, largest):
    assert Resizing.from_dict(json.loads(json.dumps(resizing.to_dict()))) == resizing
    assert Resizing.from_augmentations(resizing.augmentations()) == resizing
    assert resizing.largest() == largest


def test_other_augmentations_are_refused():
    import detectron2.data.transforms as T

    for augmentations in ([T.RandomFlip()], [T.Resize(3), T.Resize(4)], [T.ResizeShortestEdge([3, 4], 9, "choice")]):
        with pytest.raises(ValueError, match="expected Resize"):
            Resizing.from_augmentations(augmentations)


def test_an_empty_heading_of_an_export_is_no_class(tmp_path):
    file = tmp_path / "_annotations.coco.json"
    categories = [{"id": 0, "name": "heads", "supercategory": "none"}]
    categories += [{"id": 1, "name": "head", "supercategory": "heads"}]
    file.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    found = find_classes(config(f"data.train_json={file}", "data.classes=null"), "model.pth", 1)
    assert (found.names, found.ids) == (["head"], [1])
