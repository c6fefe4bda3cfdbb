"""Which views a mapper gives is known without the image, and as the mapper itself would draw them."""

import copy
import json

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.structures import BoxMode
from omegaconf import OmegaConf
from PIL import Image

from loradet.datasets.affine import RandomAffine
from loradet.datasets.loader import seeded
from loradet.datasets.mapper import DetectionMapper
from loradet.errors import UserError
from loradet.feature_cache.contents import Content
from loradet.feature_cache.mapper import CachedMapper
from loradet.feature_cache.replay import MARK
from loradet.feature_cache.views import describe_mapper, draw_view, plan_views

SQUARE, FLIP = T.Resize((32, 24)), T.RandomFlip(horizontal=True)


def mapper(*augmentations, kind=DetectionMapper, **options):
    return kind(True, augmentations=list(augmentations), image_format="RGB", **options)


@pytest.fixture
def record(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(file)
    boxes = [{"bbox": [3.0, 5.0, 30.0, 22.5], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "iscrowd": 0}]
    return {"file_name": str(file), "image_id": 7, "height": 40, "width": 60, "annotations": boxes}


class AllKept:
    """A store that has every entry."""

    def find(self, _):
        return True, None


@pytest.mark.parametrize("kind", [DetectionMapper, DatasetMapper])
@pytest.mark.parametrize(
    "augmentations",
    [
        [SQUARE, FLIP],
        [T.ResizeShortestEdge(20, 32), FLIP, T.RandomFlip(0.3, horizontal=False, vertical=True)],
        [FLIP, T.AugmentationList([SQUARE, T.RandomFlip(1.0, horizontal=False, vertical=True)])],
        [T.ResizeShortestEdge([25, 25], 26)],
        [],
    ],
)
def test_boxes_and_draws_are_those_of_the_mapper(record, kind, augmentations):
    plain = mapper(*augmentations, kind=kind)
    cached = CachedMapper(plain, "train", AllKept(), {record["file_name"]: Content("content", None)})
    views = {}
    for draw in range(30):
        with seeded(1, draw):
            expected, state = plain(record), np.random.get_state()[2]
        with seeded(1, draw):
            found = cached(record)
            assert np.random.get_state()[2] == state
        view = found.pop(MARK).key.view
        assert view.size == expected["image"].shape[1:] and "image" not in found
        boxes = found["instances"].gt_boxes.tensor
        assert boxes.equal(expected["instances"].gt_boxes.tensor)
        assert found["instances"].image_size == expected["instances"].image_size
        pixels = views.setdefault(view, expected["image"])
        assert pixels.equal(expected["image"])  # a view is one picture
    assert len({one.numpy().tobytes() for one in views.values()}) == len(views) == len({v.number for v in views})
    assert len(views) == plan_views(plain, "mapper").count


def test_the_record_stays_as_it_was_and_the_image_is_not_read(record):
    before = repr(record)
    cached = CachedMapper(mapper(SQUARE), "train", AllKept(), {"absent.jpg": Content("content", None)})
    found = cached({**record, "file_name": "absent.jpg"})
    assert found["image_id"] == 7 and len(found["instances"]) == 1 and repr(record) == before


def test_sizes_are_known_where_a_resize_fixes_them():
    assert plan_views(mapper(T.ResizeShortestEdge(30), SQUARE, FLIP), "m").size == (32, 24)
    plan = plan_views(mapper(SQUARE, T.ResizeShortestEdge(30)), "m")
    assert (plan.size, plan.resized_by, plan.count) == (None, "ResizeShortestEdge", 1)


class OwnFlip(T.RandomFlip):
    """A subclass may draw anything."""


class OwnMapper(DetectionMapper):
    """A mapper that is called in a way of its own."""

    def __call__(self, record):
        return super().__call__(record)


@pytest.mark.parametrize(
    ("augmentation", "words"),
    [
        (RandomAffine(rotate=5.0), "RandomAffine"),
        (T.RandomBrightness(0.9, 1.1), "RandomBrightness, which changes colours at random"),
        (T.ResizeShortestEdge([20, 30], 40), "ResizeShortestEdge, which draws short edges from 20 to 30"),
        (T.ResizeShortestEdge([20, 30, 40], 60, "choice"), r"short edges of \[20, 30, 40\]"),
        (T.RandomCrop("absolute", (8, 8)), "RandomCrop"),
        (T.RandomApply(FLIP), "RandomApply"),
        (T.ResizeScale(0.5, 2.0, 32, 32), "ResizeScale"),
        (OwnFlip(), "OwnFlip"),
    ],
)
def test_what_makes_views_endless_is_named(augmentation, words):
    with pytest.raises(UserError, match=rf"dataloader\.train\.mapper\.augmentations has .*{words}"):
        plan_views(mapper(SQUARE, augmentation), "dataloader.train.mapper")


def test_mappers_that_cannot_be_looked_into_are_named():
    with pytest.raises(UserError, match=r"dataloader\.val\.mapper is a OwnMapper"):
        plan_views(mapper(SQUARE, kind=OwnMapper), "dataloader.val.mapper")
    with pytest.raises(UserError, match="precomputed proposals"):
        own = mapper(SQUARE)
        own.proposal_topk = 10
        plan_views(own, "m")


def test_what_changes_pixels_is_described():
    described = [describe_mapper(mapper(SQUARE, **options)) for options in ({}, {"intensity": [0, 100]})]
    assert described[0] != described[1]
    assert described[0] == describe_mapper(DetectionMapper(False, augmentations=[FLIP], image_format="RGB"))
    views = [draw_view(mapper(T.Resize((16, 16), interp)), 40, 60)[0] for interp in (2, 3)]
    assert views[0] != views[1]


class Bands(DetectionMapper):
    """Reads the bands that it is asked for."""

    def __init__(self, *words, bands, **options):
        super().__init__(*words, **options)
        self.bands = bands

    def read_image(self, file_name, format):
        return super().read_image(file_name, format)[..., self.bands]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([0, 1, 2], [2, 1, 0]),
        ((0, 1, 2), (2, 1, 0)),
        ({"red": [0]}, {"red": [1]}),
        (np.array([0, 1]), np.array([1, 0])),
        (np.array([0, 1]), np.array([0, 1], dtype=np.uint8)),
        (np.zeros(2000), np.eye(2000)[999]),  # whose words are shortened
        ({"gain": torch.ones(2)}, {"gain": torch.tensor([1.0, 1.5])}),
        ([[0, 1], [2]], [[0], [1, 2]]),
        (OmegaConf.create([0, 1]), OmegaConf.create([1, 0])),
        ({1, 2}, {1, 3}),
        (1, "1"),
        (float("inf"), float("nan")),
    ],
)
def test_containers_and_arrays_of_a_mapper_are_described(one, other):
    described = [describe_mapper(mapper(kind=Bands, bands=bands)) for bands in (one, other, copy.deepcopy(one))]
    texts = [json.dumps(found, allow_nan=False) for found in described]
    assert texts[0] != texts[1] and texts[0] == texts[2]


@pytest.mark.parametrize("bands", [lambda image: image, [object()], {"how": range}, np.array([object()])])
def test_what_cannot_be_described_is_refused_by_name(bands):
    with pytest.raises(UserError, match=r"Bands\.bands is or holds a \w+"):
        describe_mapper(mapper(kind=Bands, bands=bands))
