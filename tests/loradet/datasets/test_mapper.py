"""The project's mapper: Detectron2's, for images of any depth and for the thinnest strips."""

import copy

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from helpers.deep_images import write_tiff, write_twins
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from loradet.datasets.affine import RandomAffine
from loradet.datasets.loader import seeded
from loradet.datasets.mapper import DetectionMapper
from loradet.errors import UserError

HEIGHT, WIDTH = 60, 90
SCENE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
AUGMENTATIONS = [
    T.ResizeShortestEdge((40, 80), 120),
    T.RandomFlip(),
    T.RandomCrop("relative_range", (0.6, 0.6)),
    T.RandomBrightness(0.8, 1.2),
]


def record(path, height=HEIGHT, width=WIDTH, boxes=((5, 5, 40, 30), (50, 20, 88, 59), (0, 0, 3, 3))):
    crowd = {"bbox": [0, 0, 9, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 1}
    annotations = [{"bbox": list(b), "bbox_mode": BoxMode.XYXY_ABS, "category_id": i} for i, b in enumerate(boxes)]
    return {
        "file_name": str(path),
        "image_id": 1,
        "height": height,
        "width": width,
        "annotations": [*annotations, crowd],
    }


def assert_same(one, other, levels=0):
    assert one.keys() == other.keys()
    assert one["image"].dtype == torch.uint8
    assert int((one["image"].int() - other["image"].int()).abs().max()) <= levels
    if "instances" in one:
        assert torch.equal(one["instances"].gt_boxes.tensor, other["instances"].gt_boxes.tensor)
        assert torch.equal(one["instances"].gt_classes, other["instances"].gt_classes)


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_eight_bits_are_mapped_as_detectron2_does(tmp_path, is_train, image_format):
    Image.fromarray(SCENE).save(tmp_path / "a.png")
    options = {"is_train": is_train, "augmentations": AUGMENTATIONS, "image_format": image_format}
    given = record(tmp_path / "a.png")
    before = copy.deepcopy(given)
    for seed in range(5):
        with seeded(seed):
            own = DetectionMapper(**options)(given)
        with seeded(seed):
            theirs = DatasetMapper(**options)(given)
        assert_same(own, theirs, levels=2)  # one of resizing, which brightness may double
        assert ("instances" in own) == is_train
    assert given == before


def test_twins_of_every_depth_are_mapped_alike(tmp_path):
    mapper = DetectionMapper(is_train=True, augmentations=AUGMENTATIONS, image_format="RGB")
    samples = []
    for file in write_twins(tmp_path, SCENE).values():
        with seeded(3):
            samples.append(mapper(record(file)) | {"file_name": ""})
    for sample in samples[1:]:
        assert_same(sample, samples[0])


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (2, 3001), (1, 1)])
@pytest.mark.parametrize("flip", [[], [T.RandomFlip(1.0)]])
def test_strips_keep_a_pixel(tmp_path, size, flip):
    height, width = size
    Image.fromarray(np.full((*size, 3), 7, np.uint8)).save(tmp_path / "strip.png")
    given = record(tmp_path / "strip.png", height, width, boxes=[(0, 0, width, height)])
    for resize in (T.ResizeShortestEdge(48, 64), T.ResizeTransform(height, width, 0, 64), T.ResizeScale(1, 1, 64, 64)):
        sample = DetectionMapper(is_train=True, augmentations=[resize, *flip], image_format="RGB")(given)
        high, wide = sample["image"].shape[1:]
        assert min(high, wide) >= 1
        box = sample["instances"].gt_boxes.tensor[0].tolist()
        assert box == pytest.approx([0, 0, wide, high])


def test_a_turned_tiff_fits_its_upright_record(tmp_path):
    file = write_tiff(tmp_path / "turned.tif", SCENE, orientation=6)
    sample = DetectionMapper(is_train=False, augmentations=[], image_format="RGB")(record(file, WIDTH, HEIGHT))
    np.testing.assert_array_equal(sample["image"].permute(1, 2, 0).numpy(), np.rot90(SCENE, -1))
    with pytest.raises(ValueError, match=r"60.{1,3}90"):
        DetectionMapper(is_train=False, augmentations=[], image_format="RGB")(record(file))


def test_subclasses_may_read_and_annotate_otherwise(tmp_path):
    class Inverted(DetectionMapper):
        def read_image(self, file_name, format):
            return 255 - super().read_image(file_name, format)

        def _transform_annotations(self, dataset_dict, transforms, image_shape):
            dataset_dict["shape"] = image_shape
            super()._transform_annotations(dataset_dict, transforms, image_shape)

    Image.fromarray(SCENE).save(tmp_path / "a.png")
    sample = Inverted(True, augmentations=[], image_format="RGB")(record(tmp_path / "a.png"))
    assert sample["shape"] == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(sample["image"].permute(1, 2, 0).numpy(), 255 - SCENE)


def test_what_is_no_rule_is_said():
    with pytest.raises(UserError, match="intensity='bright': expected auto, full_range"):
        DetectionMapper(is_train=True, augmentations=[], image_format="RGB", intensity="bright")


MODES = [BoxMode.XYXY_ABS, BoxMode.XYWH_ABS]
COORDINATES = st.floats(-20, 120, allow_nan=False)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    boxes=st.lists(st.tuples(COORDINATES, COORDINATES, COORDINATES, COORDINATES), max_size=6),
    kind=st.sampled_from(["floats", "whole numbers", "an array", "one of them whole"]),
    mode=st.sampled_from(MODES),
    crowd=st.lists(st.sampled_from([0, 1]), min_size=6, max_size=6),
    affine=st.booleans(),
)
def test_boxes_are_those_of_detectron2_to_the_last_digit(tmp_path_factory, boxes, kind, mode, crowd, affine):
    file = tmp_path_factory.getbasetemp() / "boxes.png"
    if not file.exists():
        Image.fromarray(SCENE).save(file)
    given_boxes = [list(box) for box in boxes]
    if kind == "whole numbers":
        given_boxes = [[int(v) for v in box] for box in given_boxes]
    elif kind == "an array" and mode == BoxMode.XYXY_ABS:  # an installed one takes no other alone
        given_boxes = [np.array(box) for box in given_boxes]
    elif kind == "one of them whole" and given_boxes:
        given_boxes[0][0] = 3
    annotations = [
        {"bbox": box, "bbox_mode": mode, "category_id": i, "iscrowd": crowd[i], "segmentation": []}
        for i, box in enumerate(given_boxes)
    ]
    augmentations = [*AUGMENTATIONS, *([RandomAffine(prob=1.0)] if affine else [])]
    options = {"is_train": True, "augmentations": augmentations, "image_format": "RGB"}
    samples = []
    for mapper in (DetectionMapper, DatasetMapper):
        with seeded(7):
            samples.append(mapper(**options)(record(file) | {"annotations": annotations}))
    ours, theirs = (sample["instances"] for sample in samples)
    assert ours.image_size == theirs.image_size and ours.get_fields().keys() == theirs.get_fields().keys()
    for one, other in ((ours.gt_boxes.tensor, theirs.gt_boxes.tensor), (ours.gt_classes, theirs.gt_classes)):
        assert one.dtype == other.dtype and torch.equal(one, other)
    assert samples[0].keys() == samples[1].keys()
