"""Affine augmentation: images, boxes, what is dropped, and Detectron2's mapper around it."""

import hashlib
import math

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from loradet.datasets.affine import IGNORED, AffineTransform, RandomAffine
from loradet.datasets.loader import build_train_loader, seeded

HEIGHT, WIDTH = 120, 200
STRONG = {"rotate": 30.0, "shear": 15.0, "translate": 0.2, "scale": (0.6, 1.5), "prob": 1.0}


def blank(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.zeros((height, width, 3), dtype=np.uint8)


def draw(seed: int, **options) -> AffineTransform:
    with seeded(seed):
        return RandomAffine(**{**STRONG, **options}).get_transform(blank())


def shifted(x: float, y: float, **options) -> AffineTransform:
    return AffineTransform([[1, 0, x], [0, 1, y]], HEIGHT, WIDTH, **options)


def polygon_bounds(tfm: AffineTransform, box: list[float], steps: int = 50) -> np.ndarray:
    """XYXY around many mapped points of a box's outline, a point at a time."""
    x0, y0, x1, y1 = box
    found = []
    for i in range(steps + 1):
        x, y = x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps
        for px, py in ((x, y0), (x, y1), (x0, y), (x1, y)):
            (a, b, c), (d, e, f) = tfm.matrix
            found.append((a * px + b * py + c, d * px + e * py + f))
    points = np.array(found)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


boxes = st.tuples(st.floats(0, WIDTH - 2), st.floats(0, HEIGHT - 2), st.floats(1, WIDTH), st.floats(1, HEIGHT)).map(
    lambda v: [v[0], v[1], min(v[0] + v[2], WIDTH), min(v[1] + v[3], HEIGHT)]
)


@given(seed=st.integers(0, 10_000), box=boxes, min_visible=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_boxes_surround_the_mapped_outline_and_are_dropped_by_what_is_left(seed, box, min_visible):
    tfm = draw(seed, min_visible=min_visible)
    around = polygon_bounds(tfm, box)
    inside = np.clip(around, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
    area = (around[2] - around[0]) * (around[3] - around[1])
    left = (inside[2] - inside[0]) * (inside[3] - inside[1])
    found = tfm.apply_box(np.array([box]))[0]
    if abs(left - min_visible * area) < 1e-6 * area and left > 0:
        return  # on the very edge of the rule rounding decides
    if left == 0 or left < min_visible * area:
        assert found[0] == found[2]
        assert found[1] == found[3]
    else:
        np.testing.assert_allclose(found, inside, atol=1e-6)


def test_a_box_needs_a_tenth_of_its_area():
    box = np.array([[0.0, 10.0, 40.0, 30.0]])
    np.testing.assert_allclose(shifted(-35, 0).apply_box(box), [[0, 10, 5, 30]])
    np.testing.assert_allclose(shifted(-36, 0).apply_box(box), [[0, 10, 4, 30]])
    for x in (-36.1, -40, -100, WIDTH - 3.9, 5 * WIDTH):
        x0, y0, x1, y1 = shifted(x, 0).apply_box(box)[0]
        assert x0 == x1
        assert y0 == y1
    assert shifted(-39, 0, min_visible=0.0).apply_box(box)[0, 2] == 1
    assert shifted(-40, 0, min_visible=0.0).apply_box(box)[0, 2] == 0


@pytest.mark.parametrize("seed", range(6))
def test_a_painted_rectangle_is_where_its_box_is(seed):
    tfm = draw(seed, rotate=8.0, shear=5.0, translate=0.05, scale=(0.8, 1.2))
    box = [70, 40, 130, 80]
    image = blank()
    image[box[1] : box[3], box[0] : box[2]] = 255
    rows, columns = np.nonzero(tfm.apply_image(image)[:, :, 0] > 127)
    painted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(tfm.apply_box(np.array([box]))[0], painted, atol=1.0)


def test_a_whole_shift_moves_pixels_as_they_are():
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    moved = shifted(7, -3, fill=[1, 2, 3]).apply_image(image)
    np.testing.assert_array_equal(moved[:-3, 7:], image[3:, :-7])
    np.testing.assert_array_equal(moved[-1, 0], [1, 2, 3])
    np.testing.assert_array_equal(moved[50, :7], [[1, 2, 3]] * 7)


def test_a_turn_by_a_quarter_is_exact():
    quarter = [[0, -1, WIDTH], [1, 0, 0]]  # a square: (x, y) to (side - y, x)
    tfm = AffineTransform(quarter, WIDTH, WIDTH)
    image = np.random.default_rng(0).integers(0, 256, (WIDTH, WIDTH, 3), dtype=np.uint8)
    np.testing.assert_array_equal(tfm.apply_image(image), np.rot90(image, -1))
    np.testing.assert_allclose(tfm.apply_box(np.array([[10, 20, 50, 30]])), [[170, 10, 180, 50]])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_identity_leaves_all_as_it_is(dtype, channels):
    image = (np.random.default_rng(0).random((HEIGHT, WIDTH, *channels)) * 255).astype(dtype)
    tfm = RandomAffine(rotate=0, shear=0, translate=0, scale=(1, 1), prob=1).get_transform(image)
    warped = tfm.apply_image(image)
    assert warped.dtype == dtype
    np.testing.assert_array_equal(warped, image)
    box = np.array([[0.0, 0.0, WIDTH, HEIGHT], [3.5, 4.25, 60.0, 70.0]])
    np.testing.assert_array_equal(tfm.apply_box(box), box)
    points = np.array([[-5.0, 300.0], [1.5, 2.0]])
    np.testing.assert_array_equal(tfm.apply_coords(points), points)
    labels = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 7
    np.testing.assert_array_equal(tfm.apply_segmentation(labels), labels)


def test_label_maps_keep_their_labels():
    labels = np.full((HEIGHT, WIDTH), 3, dtype=np.int64)
    labels[40:80, 70:130] = 9
    warped = draw(3).apply_segmentation(labels)
    assert warped.dtype == np.int64
    assert set(np.unique(warped)) == {3, 9, IGNORED}


def test_draws_stay_within_their_limits():
    kept = 0
    augmentation = RandomAffine(rotate=5.0, shear=3.0, translate=0.03, scale=(0.9, 1.1), prob=0.4)
    centre = np.array([[WIDTH / 2, HEIGHT / 2]])
    extremes = []
    with seeded(0):
        for _ in range(2000):
            tfm = augmentation.get_transform(blank())
            if isinstance(tfm, T.NoOpTransform):
                kept += 1
                continue
            dx, dy = (tfm.apply_coords(centre) - centre)[0]
            linear = tfm.matrix[:, :2]
            # Columns of R S: what becomes of the axes.
            along_x = math.degrees(math.atan2(linear[1, 0], linear[0, 0]))
            along_y = math.degrees(math.atan2(-linear[0, 1], linear[1, 1]))
            extremes.append([abs(dx) / WIDTH, abs(dy) / HEIGHT, abs(along_x), abs(along_y), np.linalg.det(linear)])
    assert abs(kept / 2000 - 0.6) < 0.04
    dx, dy, along_x, along_y, area = np.array(extremes).T
    for found, limit in ((dx, 0.03), (dy, 0.03), (along_x, 8.0), (along_y, 8.0)):
        assert 0.8 * limit < found.max() <= limit + 1e-9
    assert 0.8 < area.min() < 0.85
    assert 1.18 < area.max() <= 1.21 * (1 + math.tan(math.radians(3)) ** 2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rotate": -1}, "rotate=-1"),
        ({"shear": 45}, "shear=45"),
        ({"translate": -0.1}, "translate=-0.1"),
        ({"scale": (0, 1)}, "scale"),
        ({"scale": (1.1, 0.9)}, "scale"),
        ({"scale": (1.0,)}, "scale"),
        ({"prob": 1.5}, "prob=1.5"),
        ({"min_visible": 10}, "min_visible=10"),
    ],
)
def test_values_out_of_range_are_errors(options, expected):
    with pytest.raises(ValueError, match=expected):
        RandomAffine(**options)


def test_wrong_images_are_errors():
    with pytest.raises(AssertionError, match="120, 200"):
        shifted(0, 0).apply_image(blank(10, 10))
    with pytest.raises(ValueError, match="2 values, the image has 3 channels"):
        shifted(0, 0, fill=(1, 2)).apply_image(blank())


def record(path, annotations) -> dict:
    return {
        "file_name": str(path),
        "image_id": 1,
        "width": WIDTH,
        "height": HEIGHT,
        "annotations": [{"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": i} for i, box in annotations],
    }


@pytest.fixture
def painted(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return record(tmp_path / "image.png", [(0, [0, 10, 40, 30]), (1, [100, 50, 140, 90]), (2, [1, 1, 3, 3])])


@pytest.mark.parametrize("after", [[], [T.HFlipTransform(WIDTH)], [T.ResizeTransform(HEIGHT, WIDTH, 60, 77)]])
def test_detectrons_mapper_drops_what_is_hardly_visible(painted, after):
    mapper = DatasetMapper(is_train=True, augmentations=[shifted(-37, 0), *after], image_format="RGB")
    truth = mapper(painted)["instances"]
    assert truth.gt_classes.tolist() == [1]
    expected = T.TransformList([shifted(-37, 0), *after]).apply_box(np.array([[100.0, 50.0, 140.0, 90.0]]))
    np.testing.assert_allclose(truth.gt_boxes.tensor.numpy(), expected, atol=1e-4)


def test_what_is_dropped_stays_dropped_under_another_affine(painted):
    augmentations = [shifted(-37, 0, min_visible=0.1), shifted(37, 5, min_visible=0.0), draw(1, min_visible=0.0)]
    mapper = DatasetMapper(is_train=True, augmentations=augmentations, image_format="RGB")
    assert mapper(painted)["instances"].gt_classes.tolist() == [1]


def test_a_flip_before_is_the_mirrored_transform_before_a_flip():
    flip = T.HFlipTransform(WIDTH)
    tfm = draw(5)
    mirror = np.array([[-1, 0, WIDTH], [0, 1, 0], [0, 0, 1]])
    mirrored = AffineTransform((mirror @ np.vstack([tfm.matrix, [0, 0, 1]]) @ mirror)[:2], HEIGHT, WIDTH)
    box = np.array([[30.0, 20.0, 90.0, 100.0], [60.0, 40.0, 150.0, 80.0]])
    one, other = T.TransformList([flip, tfm]), T.TransformList([mirrored, flip])
    np.testing.assert_allclose(one.apply_box(box.copy()), other.apply_box(box.copy()), atol=1e-9)
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    difference = one.apply_image(image).astype(int) - other.apply_image(image)
    assert np.abs(difference).mean() < 6  # OpenCV rounds positions to 1/32 pixel


def test_samples_follow_from_the_seed_and_not_from_the_workers(painted):
    mapper = instantiate(
        L(DatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.RandomFlip)(horizontal=True),
                L(RandomAffine)(scale=[0.7, 1.3], prob=0.8, fill=[124, 116, 104]),
                L(T.RandomBrightness)(intensity_min=0.9, intensity_max=1.1),
                L(T.RandomContrast)(intensity_min=0.9, intensity_max=1.1),
            ],
            image_format="RGB",
        )
    )

    def first(seed: int, workers: int) -> list[dict]:
        loader = iter(
            build_train_loader([painted] * 3, mapper=mapper, total_batch_size=1, num_workers=workers, seed=seed)
        )
        return [next(loader)[0] for _ in range(6)]

    alone, others, another = first(0, 0), first(0, 2), first(1, 0)
    for one, other in zip(alone, others):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["instances"].gt_boxes.tensor, other["instances"].gt_boxes.tensor)
    assert any(not torch.equal(one["image"], other["image"]) for one, other in zip(alone, another))
    assert len({one["image"].numpy().tobytes() for one in alone}) == 6


# Of `cv2.warpAffine` itself, of OpenCV 4.10, with the arguments that `AffineTransform` gave it.
RECORDED = {
    "uint8": "1b994245d89920ca4aca21305b6657cb5244eea3c017e0c8fcaeab397856495c",
    "labels": "3fcc416f33478825e0b8183c6d9eb1897fd5cfaa473de97fd1366f87706a5a1a",
}


@pytest.mark.parametrize("kind", RECORDED)
def test_warps_are_those_of_opencv_4_whatever_version_is_installed(kind):
    digest = hashlib.sha256()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        tfm = draw(seed, fill=[124, 116, 104])
        warped = tfm.apply_image(image) if kind == "uint8" else tfm.apply_segmentation(image[..., 0])
        digest.update(warped.tobytes())
    assert digest.hexdigest() == RECORDED[kind]


def test_a_map_to_far_outside_leaves_nothing_but_the_border():
    image = np.full((HEIGHT, WIDTH, 3), 200, dtype=np.uint8)
    for x, y in ((1e9, -1e9), (-1e12, 0), (70_000, 70_000)):
        assert (shifted(x, y, fill=[1, 2, 3]).apply_image(image) == [1, 2, 3]).all()
