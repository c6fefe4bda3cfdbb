"""Boxes and image lists, against numbers recorded from Detectron2."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, ImageList, pairwise_ioa, pairwise_iou

pytestmark = pytest.mark.golden
XYXY, XYWH = BoxMode.XYXY_ABS, BoxMode.XYWH_ABS


def close(actual, expected):
    expected = torch.as_tensor(expected)
    torch.testing.assert_close(torch.as_tensor(actual), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def boxes_file(golden_d2: Path) -> SimpleNamespace:
    with np.load(golden_d2 / "boxes.npz", allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        arrays = {key: torch.from_numpy(file[key]) for key in file.files if key != "meta"}
    return SimpleNamespace(meta=meta, **arrays, arrays=arrays)


def test_pairwise_overlaps(boxes_file):
    a, b = Boxes(boxes_file.a), Boxes(boxes_file.b)
    close(pairwise_iou(a, b), boxes_file.pairwise_iou)
    close(pairwise_ioa(a, b), boxes_file.pairwise_ioa)
    close(pairwise_iou(Boxes([]), b), boxes_file.pairwise_iou_empty)


def test_box_methods(boxes_file):
    meta, arrays = boxes_file.meta, boxes_file.arrays
    wild = Boxes(boxes_file.wild)
    close(wild.area(), boxes_file.area)
    close(wild.get_centers(), boxes_file.centers)
    close(wild[boxes_file.index].tensor, boxes_file.indexed)
    close(Boxes.cat([Boxes(boxes_file.a), Boxes(boxes_file.b)]).tensor, boxes_file.cat)
    clipped = wild.clone()
    clipped.clip(meta["clip_hw"])
    close(clipped.tensor, boxes_file.clip)
    scaled = wild.clone()
    scaled.scale(*meta["scale_xy"])
    close(scaled.tensor, boxes_file.scale)
    for i, threshold in enumerate(meta["nonempty_thresholds"]):
        assert torch.equal(clipped.nonempty(threshold), arrays[f"nonempty/{i}"])
    for i, margin in enumerate(meta["inside_box_thresholds"]):
        assert torch.equal(wild.inside_box(meta["inside_box_hw"], margin), arrays[f"inside_box/{i}"])


def test_box_modes(boxes_file):
    meta, a, a64 = boxes_file.meta, boxes_file.a, boxes_file.a64.numpy()
    assert {mode.name: mode.value for mode in BoxMode} == meta["enum"]
    close(BoxMode.convert(a, XYXY, XYWH), boxes_file.xyxy_to_xywh)
    close(BoxMode.convert(a, XYWH, XYXY), boxes_file.xywh_to_xyxy)
    close(BoxMode.convert(a64, XYXY, XYWH), boxes_file.xyxy_to_xywh_float64)
    close(BoxMode.convert(a64, XYWH, XYXY), boxes_file.xywh_to_xyxy_float64)
    single = meta["single"]
    assert BoxMode.convert(single["input"], XYWH, XYXY) == single["list_xywh_to_xyxy"]
    assert BoxMode.convert(tuple(single["input"]), XYXY, XYWH) == tuple(single["tuple_xyxy_to_xywh"])
    integers = BoxMode.convert([1, 2, 3, 4], XYWH, XYXY)
    assert integers == single["int_list_xywh_to_xyxy"] and all(type(x) is int for x in integers)
    assert BoxMode.convert([0.1, 0.2, 0.3, 0.4], XYWH, XYXY) == single["tenths_xywh_to_xyxy"]


def test_dtypes_and_shapes(boxes_file):
    expected = boxes_file.meta["dtypes"]
    assert list(Boxes([]).tensor.shape) == expected["boxes_from_empty_list"]
    assert str(Boxes(boxes_file.a.double()).tensor.dtype) == expected["boxes_from_float64_tensor"]
    assert str(Boxes(boxes_file.a.tolist()).tensor.dtype) == expected["boxes_from_list"]
    boxes = Boxes(boxes_file.a)
    assert list(boxes[0].tensor.shape) == expected["int_index_shape"]
    assert list(next(iter(boxes)).shape) == expected["iter_element_shape"]


def test_box_errors(boxes_file):
    with_nan = Boxes(boxes_file.a.clone())
    with_nan.tensor[0, 0] = float("nan")
    calls = {
        "Boxes of shape (2, 5)": lambda: Boxes(torch.zeros(2, 5)),
        "clip with a NaN": lambda: with_nan.clip((10, 10)),
        "list of 3 numbers": lambda: BoxMode.convert([1, 2, 3], XYXY, XYWH),
        "relative box mode": lambda: BoxMode.convert(boxes_file.a, BoxMode.XYXY_REL, XYXY),
    }
    assert set(calls) == set(boxes_file.meta["errors"])
    for name, call in calls.items():
        assert boxes_file.meta["errors"][name][0] == "AssertionError"
        with pytest.raises(AssertionError):
            call()


def test_image_list(golden_d2: Path):
    with np.load(golden_d2 / "image_list.npz", allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        images = [torch.from_numpy(file[f"image/{i}"]) for i in range(meta["num_images"])]
        expected = {case: torch.from_numpy(file[f"{case}/tensor"]) for case in meta["cases"]}
    for case, kwargs in meta["cases"].items():
        inputs = images
        if case == "single":
            inputs = images[:1]
        elif case == "two_dim":
            inputs = [image[0] for image in images]
        batch = ImageList.from_tensors(inputs, **kwargs)
        assert torch.equal(batch.tensor, expected[case]), case
        assert [list(size) for size in batch.image_sizes] == meta["image_sizes"][case]
        for i, image in enumerate(inputs):
            assert torch.equal(batch[i], image)

    assert {name: kinds[0] for name, kinds in meta["errors"].items()} == {
        "no tensors": "AssertionError",
        "square_size smaller than the images": "RuntimeError",
    }
    with pytest.raises(AssertionError):
        ImageList.from_tensors([])
    with pytest.raises(RuntimeError):
        ImageList.from_tensors(images, padding_constraints={"square_size": 1})
