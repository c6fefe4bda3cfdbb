"""Transforms and augmentations against numbers recorded from Detectron2."""

import builtins
import json
from pathlib import Path

import numpy as np
import PIL
import pytest
from detectron2.data import transforms as T

pytestmark = pytest.mark.golden

SAME_PILLOW = PIL.__version__.startswith("13.")


@pytest.fixture(scope="module")
def recorded(golden_d2: Path) -> dict[str, np.ndarray]:
    with np.load(golden_d2 / "transforms.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def meta(recorded) -> dict:
    return json.loads(str(recorded["meta"]))


def check_image(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if expected.dtype == np.uint8:
        difference = np.abs(found.astype(int) - expected.astype(int))
        assert difference.max(initial=0) <= (0 if SAME_PILLOW else 1)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def check_boxes(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def check_transform(found: T.Transform, expected: list) -> None:
    name, attributes = expected
    assert type(found).__name__ == name
    shown = {key: getattr(found, key) for key in attributes}
    assert shown == attributes


def test_output_shape(meta):
    for case in meta["output_shapes"]:
        found = T.ResizeShortestEdge.get_output_shape(*case["hw"], case["short"], case["max_size"])
        assert list(found) == case["out"], case


def test_drawn_sizes(recorded, meta):
    for case in meta["drawn_sizes"]:
        augmentation = T.ResizeShortestEdge(case["edge"], case["max_size"], sample_style=case["style"])
        np.random.seed(case["np_seed"])
        check_transform(augmentation.get_transform(recorded["image"]), case["transform"])


def test_resize(recorded, meta):
    for i, case in enumerate(meta["resizes"]):
        image = recorded["image"]
        resize = T.ResizeTransform(*case["hw"], *case["new_hw"])
        key = f"resize/{i}"
        check_image(resize.apply_image(image), recorded[f"{key}/image"])
        check_image(resize.apply_image(image.astype(np.float32) / np.float32(255)), recorded[f"{key}/image_float32"])
        check_image(resize.apply_image(image[:, :, 0]), recorded[f"{key}/image_gray"])
        check_image(resize.apply_image(image[:, :, :1]), recorded[f"{key}/image_one_channel"])
        check_image(resize.apply_segmentation(image[:, :, 1]), recorded[f"{key}/segmentation"])
        check_boxes(resize.apply_box(recorded["boxes"].copy()), recorded[f"{key}/boxes"])
        check_boxes(resize.apply_box(recorded["boxes64"].copy()), recorded[f"{key}/boxes64"])
        check_boxes(resize.apply_coords(recorded["boxes64"][:, :2].copy()), recorded[f"{key}/coords"])
        check_transform(resize.inverse(), case["inverse"])


def test_shortest_edge_through_aug_input(recorded, meta):
    case = meta["shortest_edge"]
    aug_input = T.AugInput(recorded["image"], boxes=recorded["boxes"].copy())
    np.random.seed(0)
    transform = T.ResizeShortestEdge(case["edge"], case["max_size"], sample_style="choice")(aug_input)
    check_transform(transform, case["transform"])
    check_image(aug_input.image, recorded["shortest_edge/image"])
    check_boxes(aug_input.boxes, recorded["shortest_edge/boxes"])


def test_fixed_transforms(recorded, meta):
    height, width = recorded["image"].shape[:2]
    transforms = {
        "hflip": T.HFlipTransform(width),
        "vflip": T.VFlipTransform(height),
        "noop": T.NoOpTransform(),
        "crop": T.CropTransform(**meta["crop"]),
        "pad": T.PadTransform(**meta["pad"]),
    }
    for name, transform in transforms.items():
        check_image(transform.apply_image(recorded["image"]), recorded[f"{name}/image"])
        for boxes in ("boxes", "boxes64"):
            if f"{name}/{boxes}" in recorded:
                check_boxes(transform.apply_box(recorded[boxes].copy()), recorded[f"{name}/{boxes}"])


def test_transform_list_and_its_inverse(recorded, meta):
    arguments = {"ResizeTransform": ("h", "w", "new_h", "new_w", "interp"), "HFlipTransform": ("width",)}
    transforms = T.TransformList(
        [getattr(T, name)(*(values[key] for key in arguments[name])) for name, values in meta["list"]]
    )
    boxes = transforms.apply_box(recorded["boxes64"].copy())
    check_boxes(boxes, recorded["list/boxes"])
    check_boxes(transforms.inverse().apply_box(boxes.copy()), recorded["list_inverse/boxes"])


def test_random_flip(recorded, meta):
    for case in meta["random_flip"]:
        np.random.seed(case["np_seed"])
        found = T.RandomFlip(**case["kwargs"]).get_transform(recorded["image"])
        check_transform(found, case["transform"])


@pytest.mark.parametrize("name", ["lsj", "lsj_pad"])
def test_large_scale_jitter(recorded, meta, name):
    case = meta[name]
    target = case["target"]
    augmentations = T.AugmentationList(
        [
            T.RandomFlip(horizontal=True),
            T.ResizeScale(case["min_scale"], case["max_scale"], target, target),
            T.FixedSizeCrop((target, target), pad=case["pad"]),
        ]
    )
    for run in case["runs"]:
        seed = run["np_seed"]
        aug_input = T.AugInput(recorded["image"], boxes=recorded["boxes"].copy())
        np.random.seed(seed)
        transforms = augmentations(aug_input)
        assert len(transforms) == len(run["transforms"])
        for found, expected in zip(transforms, run["transforms"]):
            check_transform(found, expected)
        assert list(aug_input.image.shape[:2]) == run["out_hw"]
        check_boxes(aug_input.boxes, recorded[f"{name}/{seed}/boxes"])
        if f"{name}/{seed}/image" in recorded:
            check_image(aug_input.image, recorded[f"{name}/{seed}/image"])


def test_errors(recorded, meta):
    image = recorded["image"]
    height, width = image.shape[:2]
    calls = {
        "RandomFlip horizontal and vertical": lambda: T.RandomFlip(horizontal=True, vertical=True),
        "RandomFlip neither": lambda: T.RandomFlip(horizontal=False, vertical=False),
        "ResizeTransform on another size": lambda: T.ResizeTransform(height + 1, width, 8, 8).apply_image(image),
    }
    assert set(calls) == set(meta["errors"])
    for name, call in calls.items():
        expected = next(getattr(builtins, n) for n in meta["errors"][name] if hasattr(builtins, n))
        with pytest.raises(expected):
            call()
