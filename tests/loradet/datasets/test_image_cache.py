"""Images kept in memory: the same samples as without, no file read twice, and refusals."""

import itertools
import logging
import pickle

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from helpers.paths import TEST_CONFIGS
from PIL import Image

from loradet.config import load_config
from loradet.datasets.image_cache import ImageCache
from loradet.datasets.loader import SampleError, build_train_loader
from loradet.datasets.mapper import DetectionMapper
from loradet.datasets.synthetic import generate
from loradet.errors import UserError
from loradet.training.plan import plan_batch
from loradet.training.prepare import build_loader

FLIP = T.RandomFlip()
AUGMENTATIONS = {
    "resized": [T.ResizeShortestEdge(48, 80), FLIP, T.RandomBrightness(0.5, 1.5)],
    "square": [T.Resize((40, 40)), FLIP],
    "whole, sizes drawn": [T.ResizeShortestEdge((30, 60), 90), FLIP],
    "whole, list of sizes": [T.ResizeShortestEdge([30, 60], 90, sample_style="choice"), FLIP],
    "whole, pixels looked at first": [T.RandomContrast(0.5, 1.5), T.Resize((40, 40)), FLIP],
    "whole, not resized": [],
}


@pytest.fixture
def records(tmp_path):
    found = []
    for number, (height, width) in enumerate([(50, 70), (70, 50), (48, 60), (33, 90), (61, 61)]):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        name = tmp_path / f"{number}.{'png' if number % 2 else 'jpg'}"
        Image.fromarray(pixels).save(name)
        box = {"bbox": [3, 4, 20, 21], "bbox_mode": BoxMode.XYXY_ABS, "category_id": number}
        record = {"file_name": str(name), "image_id": number, "height": height, "width": width}
        found.append(record | {"annotations": [box]})
    return found


def make(records, augmentations, *, image_format="RGB", workers=0, mapper=None, **options):
    mapper = mapper or DetectionMapper(True, augmentations=augmentations, image_format=image_format)
    return build_train_loader(records, mapper=mapper, total_batch_size=2, num_workers=workers, seed=3, **options)


def samples(loader, batches=12):
    return [sample for batch in itertools.islice(iter(loader), batches) for sample in batch]


def assert_same(ours, others):
    assert len(ours) == len(others)
    for one, other in zip(ours, others):
        assert one["image_id"] == other["image_id"]
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["instances"].gt_boxes.tensor, other["instances"].gt_boxes.tensor)


@pytest.mark.parametrize("augmentations", AUGMENTATIONS.values(), ids=AUGMENTATIONS.keys())
@pytest.mark.parametrize("image_format", ["RGB", "BGR", "L"])
def test_samples_are_those_without_a_cache_and_files_are_read_once(records, augmentations, image_format, monkeypatch):
    plain = samples(make(records, augmentations, image_format=image_format))
    reads = []
    given = DetectionMapper.read_image
    monkeypatch.setattr(
        DetectionMapper, "read_image", lambda self, name, format: reads.append(name) or given(self, name, format)
    )
    assert_same(samples(make(records, augmentations, image_format=image_format, cache="memory")), plain)
    assert sorted(reads) == sorted(record["file_name"] for record in records)


def test_data_processes_share_it(records, tmp_path):
    augmentations = AUGMENTATIONS["resized"]
    plain = samples(make(records, augmentations))
    loader = make(records, augmentations, workers=2, cache="memory")
    assert_same(samples(loader), plain)
    for record in records:
        (tmp_path / record["file_name"]).unlink()
    assert_same(samples(loader), plain)  # by processes that are started anew, and read nothing


def test_samples_may_be_written_to_without_changing_what_is_kept(records):
    loader = make(records, AUGMENTATIONS["square"], cache="memory")
    first = samples(loader)
    expected = [sample["image"].clone() for sample in first]
    for sample in first:
        sample["image"].zero_()
    for sample, image in zip(samples(loader), expected):
        assert torch.equal(sample["image"], image)


def test_an_unreadable_image_is_named_and_not_kept(records, tmp_path):
    (tmp_path / "1.png").write_bytes(b"no image")
    loader = make(records, AUGMENTATIONS["square"], cache="memory")
    for _ in range(2):
        with pytest.raises(SampleError, match=r"1\.png"):
            samples(loader)


def test_the_size_is_said_and_has_a_limit(records, caplog):
    with caplog.at_level(logging.INFO, logger="loradet"):
        make(records, AUGMENTATIONS["square"], cache="memory")
    assert "Cache of 5 images (resized): 2.4e-05 GB" in caplog.text  # 5 * 40 * 40 * 3
    with pytest.raises(UserError, match=r"5 images \(resized\) take 2\.4e-05 GB, more than data\.cache_gb=1e-05"):
        make(records, AUGMENTATIONS["square"], cache="memory", cache_gb=1e-5)
    with pytest.raises(UserError, match=r"5 images \(not resized, because augmentations draw the size\)"):
        make(records, AUGMENTATIONS["whole, sizes drawn"], cache="memory", cache_gb=1e-6)


def test_what_cannot_be_cached_is_refused(records):
    with pytest.raises(UserError, match=r"data\.cache='disk': expected \"memory\""):
        make(records, [], cache="disk")
    with pytest.raises(UserError, match="needs loradet's DetectionMapper, not function"):
        make(records, [], mapper=lambda record: record, cache="memory")
    with pytest.raises(UserError, match=r"image_format='YUV-BT\.601'"):
        make(records, [], image_format="YUV-BT.601", cache="memory")
    drawn = DetectionMapper(
        True, augmentations=AUGMENTATIONS["whole, sizes drawn"], image_format="RGB", reduced_decode=True
    )
    with pytest.raises(UserError, match="one of the two"):
        make(records, [], mapper=drawn, cache="memory")


def test_it_is_not_sent_to_processes_that_do_not_share_memory():
    with pytest.raises(UserError, match="num_workers=0"):
        pickle.dumps(ImageCache({"a": (2, 3, 3)}))


def test_an_image_of_another_shape_than_was_said_is_not_kept():
    cache = ImageCache({"a": (2, 3, 3), "b": (1, 1, 1)})
    cache.put("a", np.zeros((3, 2, 3), np.uint8))
    cache.put("unknown", np.zeros((2, 3, 3), np.uint8))
    assert cache.get("a") is None and cache.get("unknown") is None and len(cache) == 0
    image = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    cache.put("a", image[:, :, ::-1])
    np.testing.assert_array_equal(cache.get("a"), image[:, :, ::-1])
    assert len(cache) == 1 and not cache.get("a").flags.writeable


def test_keys_of_a_config_reach_loader_and_mapper(tmp_path):
    data = generate(tmp_path / "sar", size=64, counts={"train": 4, "val": 1, "test": 1})
    overrides = [f"data.root={data}", "train.device=cpu", "dataloader.train.num_workers=0"]

    def build(*more):
        return build_loader(load_config(str(TEST_CONFIGS / "tiny.py"), [*overrides, *more]), plan_batch(2, 1))

    with pytest.raises(UserError, match=r"data\.cache_gb=1e-06"):
        build("data.cache=memory", "data.cache_gb=1e-6")
    mappers = [build(word).dataset.mapper.mapper.mapper for word in ("data.reduced_decode=True", "data.cache=null")]
    assert [mapper.reduced_decode for mapper in mappers] == [True, False]
    cached = build("data.cache=memory")
    assert_same(samples(cached), samples(build()))
    for file in (data / "JPEGImages" / "train").iterdir():
        file.unlink()
    assert len(samples(cached)) == 24  # none is read again
