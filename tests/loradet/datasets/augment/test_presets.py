"""Boxes under each preset of `configs/common/augment.py`: they bound what was painted, whatever was drawn."""

import copy

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from helpers.painted_scenes import PaintedMapper, check_boxes, scenes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from loradet.config.augment import presets
from loradet.config.load import load_config
from loradet.datasets.augment import Mosaic
from loradet.datasets.images.fast_decoding import reduces_jpegs
from loradet.datasets.loader import build_train_loader
from loradet.datasets.mapper import DetectionMapper
from loradet.datasets.seeding import seeded
from loradet.errors import UserError
from loradet.feature_cache.views import plan_views

PRESETS = ("basic", "multi_scale", "lsj", "photometric", "mosaic")
CFG = {name: load_config("custom_coco", [f"data.augment={name}", "data.image_size=48"]) for name in PRESETS}


def augmentations(name, size=48, **changed):
    cfg = copy.deepcopy(CFG[name])
    cfg.data.image_size, cfg.data.max_size = size, 2 * size
    nodes = cfg.dataloader.train.mapper.augmentations
    for key, value in changed.items():
        nodes[0][key] = value
    return instantiate(nodes)


def painted(images, records, calls, image_format="RGB"):
    mapper = PaintedMapper(True, augmentations=calls, image_format=image_format)
    mapper.scenes = images
    return mapper.with_records(records)


def test_all_presets_are_tried():
    assert set(presets()) == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenes(), st.integers(0, 2**31), st.sampled_from(["RGB", "BGR"]))
def test_boxes_bound_their_objects(name, scene, seed, image_format):
    images, records = scene
    # Slivers are left in, so that all that is seen has a box; that they go is another test.
    calls = augmentations(name, **({"min_visible": 0.0, "prob": 0.9} if name == "mosaic" else {}))
    if name == "photometric":
        calls[1].image_format = image_format
    mapper = painted(images, records, calls, image_format)
    before = copy.deepcopy(records)
    with seeded(seed):
        sample = mapper(records[0])
    check_boxes(sample, image_format, keeps_colours=name != "photometric")
    assert records == before
    if name == "lsj":
        assert sample["image"].shape[1:] == (96, 96)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenes(), st.integers(0, 2**31))
def test_a_mosaic_drops_what_is_hardly_seen_and_nothing_else(scene, seed):
    images, records = scene
    found = []
    for least in (0.0, 0.3):
        mapper = painted(images, records, augmentations("mosaic", prob=1.0, min_visible=least))
        with seeded(seed):
            plan = mapper.mosaic.draw(copy.deepcopy(records[0]), records, lambda one: (one["height"], one["width"]))
        found.append(plan)
    for tile in found[0].tiles:
        factor = (tile.resize.new_w / tile.resize.w) * (tile.resize.new_h / tile.resize.h)
        seen = {one["category_id"]: one["bbox"] for one in tile.annotations(0.0)}
        kept = {one["category_id"]: one["bbox"] for one in tile.annotations(0.3)}
        whole = {one["category_id"]: one["bbox"][2] * one["bbox"][3] * factor for one in tile.record["annotations"]}
        share = {key: (box[2] - box[0]) * (box[3] - box[1]) / whole[key] for key, box in seen.items()}
        assert kept == {key: box for key, box in seen.items() if share[key] >= 0.3}
    assert found[1].annotations() == [one for tile in found[1].tiles for one in tile.annotations(0.3)]


def write(folder, count=5, crowd=False):
    """Noise of several sizes, each with a box, one of them turned by its EXIF orientation."""
    records, noise = [], np.random.default_rng(0)
    for number in range(count):
        height, width = 40 + 9 * number, 90 - 7 * number
        image = Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
        exif = Image.Exif()
        if number == 1:
            exif[0x0112] = 6  # lies on its side
            height, width = width, height
        image.save(folder / f"{number}.jpg", exif=exif)
        box = {"bbox": [3.0, 5.0, 30.0, 22.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": number % 2, "iscrowd": 0}
        boxes = [box, {**box, "bbox": [1.0, 1.0, 38.0, 30.0], "iscrowd": 1}] if crowd else [box]
        records.append(
            {
                "file_name": str(folder / f"{number}.jpg"),
                "image_id": number,
                "height": height,
                "width": width,
                "annotations": boxes,
            }
        )
    return records


def loader(records, name, *, workers=0, **options):
    mapper = DetectionMapper(True, augmentations=augmentations(name), image_format="RGB")
    return build_train_loader(
        records, mapper=mapper, total_batch_size=2, num_workers=workers, seed=3, aspect_ratio_grouping=False, **options
    )


def batches(given, count, start=0):
    given.resume_at(start)
    return [batch for batch, _ in zip(given, range(count))]


def assert_same(one, other):
    for first, second in zip(one, other, strict=True):
        for a, b in zip(first, second, strict=True):
            assert a["file_name"] == b["file_name"] and torch.equal(a["image"], b["image"])
            assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)


@pytest.mark.parametrize("name", PRESETS)
def test_samples_follow_from_the_seed_alone_also_after_a_resume(tmp_path, name):
    records = write(tmp_path)
    unbroken = batches(loader(records, name), 6)
    assert_same(batches(loader(records, name, workers=2), 6), unbroken)
    assert_same(batches(loader(records, name, workers=1), 3, start=3), unbroken[3:])
    # The same image does not look the same each time, in whichever process.
    looks = {}
    for batch in unbroken:
        for sample in batch:
            looks.setdefault(sample["file_name"], set()).add(sample["image"].numpy().tobytes())
    assert max(map(len, looks.values())) > 1


def test_a_kept_image_gives_the_same_mosaics(tmp_path):
    records = write(tmp_path)
    plain = batches(loader(records, "mosaic"), 8)
    assert_same(batches(loader(records, "mosaic", cache="memory", workers=1), 8), plain)


@pytest.mark.skipif(not reduces_jpegs(), reason="needs simplejpeg")
@pytest.mark.parametrize("name", ["lsj", "mosaic"])
def test_files_can_be_decoded_at_a_part_of_their_size(tmp_path, name):
    records = write(tmp_path)
    plain = DetectionMapper(True, augmentations=augmentations(name, size=12), image_format="RGB")
    reduced = DetectionMapper(True, augmentations=augmentations(name, size=12), image_format="RGB", reduced_decode=True)
    differing = 0
    for seed in range(12):
        pair = []
        for mapper in (plain, reduced):
            with seeded(seed):
                pair.append(mapper.with_records(records)(records[seed % 5]))
        assert torch.equal(*(one["instances"].gt_boxes.tensor for one in pair))
        assert pair[0]["image"].shape == pair[1]["image"].shape
        distance = (pair[0]["image"].int() - pair[1]["image"].int()).abs().float().mean()
        assert distance < 25  # noise, of which the decoder leaves out the finer waves
        differing += int(distance > 0)
    assert differing


def test_a_mosaic_keeps_crowds_out_of_the_objects(tmp_path):
    records = write(tmp_path, crowd=True)
    mapper = DetectionMapper(True, augmentations=augmentations("mosaic", prob=1.0), image_format="RGB")
    with seeded(0):
        plan = mapper.mosaic.draw(copy.deepcopy(records[0]), records, lambda one: (one["height"], one["width"]))
        flags = [one["iscrowd"] for one in plan.annotations()]
    with seeded(0):
        sample = mapper.with_records(records)(records[0])
    assert sum(flags) and len(sample["instances"]) == len(flags) - sum(flags)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("multi_scale", "ResizeShortestEdge, which draws short edges of"),
        ("lsj", "ResizeScale, which is neither"),
        ("photometric", "RandomColor, which changes colours at random"),
        ("mosaic", "Mosaic, which puts other images beside it"),
    ],
)
def test_kept_features_are_refused_with_views_without_end(name, words):
    mapper = DetectionMapper(True, augmentations=augmentations(name), image_format="RGB")
    with pytest.raises(UserError, match=words):
        plan_views(mapper, "dataloader.train.mapper")
    assert plan_views(DetectionMapper(True, augmentations=augmentations("basic"), image_format="RGB"), "m").count == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 1}, "image_size=1"),
        ({"image_size": 64}, "max_size=48"),
        ({"prob": 1.5}, "prob=1.5"),
        ({"scale": [1.0, 0.5]}, r"scale=\(1.0, 0.5\)"),
        ({"centre": [0.5, 1.5]}, r"centre=\(0.5, 1.5\)"),
        ({"fill": 300}, "fill=300"),
    ],
)
def test_values_of_a_mosaic_that_cannot_be(options, words):
    with pytest.raises(UserError, match=words):
        Mosaic(**{"image_size": 32, "max_size": 48, **options})


def test_a_mosaic_says_where_it_works(tmp_path):
    records = write(tmp_path)
    mosaic = Mosaic(image_size=32, max_size=48)
    with pytest.raises(UserError, match="has to be the first"):
        DetectionMapper(True, augmentations=[T.RandomFlip(), mosaic], image_format="RGB")
    with pytest.raises(UserError, match="of training alone"):
        DetectionMapper(False, augmentations=[mosaic], image_format="RGB")
    with pytest.raises(UserError, match="no records of other images"):
        DetectionMapper(True, augmentations=[mosaic], image_format="RGB")(records[0])
    with pytest.raises(UserError, match="needs the other images"):
        T.AugmentationList([mosaic])(T.AugInput(np.zeros((8, 8, 3), np.uint8)))
