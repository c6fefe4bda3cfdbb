"""A cache of a detector, opened by one run after another: each takes what is its own, and nothing else."""

import json
import os

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode
from helpers.small_models import BACKBONES, build
from PIL import Image
from test_replay import Outer, step

from loradet.datasets import coco_dataset
from loradet.datasets.mapper import DetectionMapper
from loradet.datasets.readers.records import Records
from loradet.errors import UserError
from loradet.feature_cache.cache import FeatureCache
from loradet.feature_cache.layout import Layout
from loradet.feature_cache.probe import Probe
from loradet.feature_cache.replay import MARK
from loradet.feature_cache.stores import DiskStore

SHAPES = [(40, 60), (60, 40), (50, 50)]


@pytest.fixture
def records(tmp_path):
    found = []
    for number, (height, width) in enumerate(SHAPES):
        file = tmp_path / f"{number}.png"
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
        boxes = [{"bbox": [3.0, 5.0, 30.0, 32.5], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "iscrowd": 0}]
        found.append({"file_name": str(file), "image_id": number, "height": height, "width": width})
        found[-1]["annotations"] = boxes
    return found


def mapper(*augmentations, kind=DetectionMapper):
    return kind(True, augmentations=list(augmentations), image_format="RGB")


SQUARE = T.Resize((64, 64))


def opened(model, folder, records, one=None, **settings):
    """A cache that is open, and its mapper."""
    one = one or mapper(SQUARE)
    settings = {"where": "disk", "dtype": None, "max_gb": None, **settings}
    cache = FeatureCache(model, folder=folder, **settings)
    cache.add("train", records, one)
    cache.open()
    return cache, cache.mapper("train", one)


def fill(model, folder, records, one=None, **settings):
    cache, own = opened(model, folder, records, one, **settings)
    step(model, [own(record) for record in records])
    cache.close()


def kept(own, records):
    return [own(record)[MARK].is_kept for record in records]


def probing(backbone="ConvNeXt", detector="RetinaNet", regime="probe"):
    return build(BACKBONES[backbone], detector, regime).train()


def test_names_of_images_are_taken_without_their_boxes(records, tmp_path, monkeypatch):
    images = [{"id": r["image_id"], **{key: r[key] for key in ("file_name", "width", "height")}} for r in records]
    boxes = [{"id": i["id"] + 1, "image_id": i["id"], "category_id": 1, "bbox": [3, 5, 9, 9]} for i in images]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    records = coco_dataset(tmp_path / "coco.json", tmp_path)
    assert isinstance(records, Records)
    monkeypatch.setattr(Records, "_dict", lambda *_: pytest.fail("a record was made"))
    cache = FeatureCache(probing(), where="disk", folder="cache", dtype=None, max_gb=1e-9)
    cache.add("train", records, mapper(SQUARE))
    with pytest.raises(UserError, match="train: 3 images x 1 view x "):
        cache.open()


def test_another_run_reads_what_is_kept(records, tmp_path):
    fill(probing(), tmp_path / "cache", records)
    _, own = opened(probing(), tmp_path / "cache", records)
    assert kept(own, records) == [True] * 3


def test_a_detector_that_changes_pixels_is_refused_where_all_is_kept(records, tmp_path):
    model = probing()
    model.backbone.bottom_up = Outer(model.backbone.bottom_up, lambda backbone, x: backbone(x))
    fill(model, tmp_path / "cache", records)
    for is_training in (True, False):
        model.backbone.bottom_up.way = lambda backbone, x: backbone(x + 0.1 if model.training == is_training else x)  # noqa: B023
        with pytest.raises(UserError, match=r"runs backbone\.bottom_up\.inner .* on other pixels than"):
            opened(model, tmp_path / "cache", records)
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_images_of_all_shapes_are_compared_by_one_noise(records, tmp_path, monkeypatch):
    def model():
        detr = probing("ViT", "DETR")
        detr.pad_to = (64, 64)
        return detr

    fill(model(), tmp_path / "cache", records, mapper())
    opened(model(), tmp_path / "cache", records[1:], mapper())
    monkeypatch.setattr("timm.models.vision_transformer.Block.forward", lambda self, x, **_: self.norm1(-x))
    for some in (records, records[1:], records[2:]):
        with pytest.raises(UserError, match=r"holds features of backbone\.0:\w+ that this program computes otherwise"):
            opened(detector := model(), tmp_path / "cache", some, mapper())
        assert not detector._forward_hooks and not detector._forward_pre_hooks


@pytest.mark.parametrize(
    ("device", "dtype", "factor", "is_same"),
    [
        ("cpu", None, 1.0001, True),
        ("cpu", None, 1.005, False),
        ("cuda", None, 1.005, True),
        ("cuda", None, 1.05, False),
        ("cpu", "bf16", 1.01, True),  # the last bit of a rounded number
        ("cpu", "bf16", 1.1, False),
    ],
)
def test_how_much_noise_may_differ_is_told_by_the_device_and_the_type(tmp_path, device, dtype, factor, is_same):
    maps = {"net": torch.linspace(-1, 1, 60).view(1, 3, 4, 5)}
    layout = Layout.of(maps, dtype)
    first, second = (
        Probe(layout, (8, 8), layout.tensors({"net": maps["net"][0] * gain}), (8, 8), device) for gain in (1.0, factor)
    )
    store = DiskStore(tmp_path / "entries", "spec", layout)
    first.compare(store)
    if is_same:
        second.compare(store)
    else:
        with pytest.raises(UserError, match="that this program computes otherwise"):
            second.compare(store)


def test_a_resumed_run_reads_what_is_kept_while_batch_norms_behind_have_learnt(records, tmp_path):
    model = probing("ResNet", "RetinaNet", "partial")
    before = model.backbone.bottom_up.net.layer4[0].bn1.running_mean.clone()
    fill(model, tmp_path / "cache", records)
    assert not model.backbone.bottom_up.net.layer4[0].bn1.running_mean.equal(before)
    fill(model, tmp_path / "cache", records)
    _, own = opened(model, tmp_path / "cache", records)
    assert kept(own, records) == [True] * 3
    assert len(list((tmp_path / "cache").glob("*/about.json"))) == 1
    model.backbone.bottom_up.net.layer3[0].bn1.running_mean += 0.1  # which is kept
    _, own = opened(model, tmp_path / "cache", records)
    assert kept(own, records) == [False] * 3


@pytest.mark.slow
def test_a_vit_with_its_last_block_training_reads_what_is_kept(records, tmp_path):
    model = probing("ViT", "DETR", "partial")
    net = model.get_submodule("backbone.0").net
    net.norm.requires_grad_(True)
    fill(model, tmp_path / "cache", records)
    with torch.no_grad():
        for parameter in (net.blocks[1].mlp.fc1.weight, net.norm.weight):
            parameter.mul_(1.1)
    assert kept(opened(model, tmp_path / "cache", records)[1], records) == [True] * 3
    with torch.no_grad():
        net.pos_embed.mul_(1.1)
    assert kept(opened(model, tmp_path / "cache", records)[1], records) == [False] * 3


class Replaced(DetectionMapper):
    """Somebody replaces a file while the run goes on."""

    def read_image(self, file_name, format):
        image = super().read_image(file_name, format)
        if file_name.endswith("1.png"):
            Image.fromarray(255 - image).save(file_name)
        return image


def test_an_image_that_was_replaced_meanwhile_is_not_kept(records, tmp_path, caplog):
    model = probing()
    cache, own = opened(model, tmp_path / "cache", records)
    with Image.open(records[0]["file_name"]) as image:
        Image.eval(image, lambda value: 255 - value).save(records[0]["file_name"])
    os.utime(records[0]["file_name"], ns=(0, 1))
    batch = [own(record) for record in records]
    assert [MARK in sample for sample in batch] == [False, True, True]
    assert f"{records[0]['file_name']} has changed since the run began" in caplog.text
    step(model, batch)
    cache.close()
    _, own = opened(model, tmp_path / "cache", records)
    assert kept(own, records) == [False, True, True]


def test_an_image_that_is_replaced_while_it_is_read_is_not_kept(records, tmp_path):
    _, own = opened(probing(), tmp_path / "cache", records, mapper(SQUARE, kind=Replaced))
    assert [MARK in own(record) for record in records] == [True, False, True]


def test_what_overflows_is_said_once_with_advice(records, tmp_path, caplog):
    model = probing()
    cache, own = opened(model, tmp_path / "cache", records, dtype="fp16")
    with torch.no_grad():
        for parameter in model.backbone.bottom_up.parameters():
            parameter.mul_(1e3)
    for _ in range(2):
        step(model, [own(record) for record in records])
    assert kept(own, records) == [False] * 3
    assert caplog.text.count("are not finite in the type that they are kept in") == 1
    assert "train.feature_cache.dtype=bf16 or null keeps them" in caplog.text
    cache.close()
    assert not model._forward_hooks and not model._forward_pre_hooks
