import importlib

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, LazyConfig
from detectron2.data import transforms as T
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

HEIGHT, WIDTH = 23, 31

boxes = st.tuples(
    st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1), st.integers(1, WIDTH), st.integers(1, HEIGHT)
).map(lambda b: [b[0], b[1], min(b[0] + b[2], WIDTH), min(b[1] + b[3], HEIGHT)])


def painted(box: list[int]) -> np.ndarray:
    image = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


def bounding_box(image: np.ndarray) -> list[int]:
    ys, xs = np.nonzero(image[:, :, 0])
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def visible(box: np.ndarray, image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return np.clip(box, 0, [width, height, width, height])


@settings(max_examples=60, deadline=None)
@given(boxes, st.integers(0, 2**16))
def test_boxes_follow_what_is_painted(box, seed):
    """Whatever is drawn, the transformed box is the bounding box of the transformed pixels."""
    augmentations = [
        T.RandomFlip(),
        T.RandomFlip(horizontal=False, vertical=True),
        T.Resize((2 * HEIGHT, 3 * WIDTH), interp=Image.NEAREST),
        T.RandomApply(T.RandomCrop("relative", (0.7, 0.6)), 0.5),
        T.FixedSizeCrop((40, 90), pad=False),
    ]
    aug_input = T.AugInput(painted(box), boxes=np.array([box], dtype=np.float64))
    np.random.seed(seed)
    transforms = aug_input.apply_augmentations(augmentations)
    x0, y0, x1, y1 = visible(aug_input.boxes[0], aug_input.image)
    np.testing.assert_array_equal(
        visible(transforms.apply_box(np.array([box], float))[0], aug_input.image), [x0, y0, x1, y1]
    )
    if x1 > x0 and y1 > y0:
        assert bounding_box(aug_input.image) == [x0, y0, x1, y1]
    else:
        assert not aug_input.image.any()


@given(boxes, st.integers(1, 60), st.integers(1, 60))
def test_resize_and_its_inverse(box, new_h, new_w):
    resize = T.ResizeTransform(HEIGHT, WIDTH, new_h, new_w)
    there = resize.apply_box(np.array([box], dtype=np.float64))
    np.testing.assert_allclose(resize.inverse().apply_box(there.copy())[0], box, atol=1e-9)


@pytest.mark.subset
def test_integer_boxes_are_not_truncated():
    """Detectron2 keeps the integers, and so loses the fractions of a resized box."""
    resize = T.ResizeTransform(2, 2, 3, 3)
    np.testing.assert_allclose(resize.apply_box(np.array([[1, 1, 2, 2]])), [[1.5, 1.5, 3, 3]])


def test_points_are_resized_in_place():
    """As Detectron2 0.6 (main of 2026-06-06) does it: an integer array keeps its dtype, and loses the fractions."""
    resize = T.ResizeTransform(2, 2, 3, 3)
    for dtype, expected in ((np.float32, [[1.5, 3.0]]), (np.int64, [[1, 3]])):
        points = np.array([[1, 2]], dtype=dtype)
        assert resize.apply_coords(points) is points
        assert points.dtype == dtype
        np.testing.assert_array_equal(points, expected)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3), (4, 6, 2, 3)])
def test_floating_point_images_of_any_channels_are_resized(shape):
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    resized = T.ResizeTransform(4, 6, 8, 3).apply_image(image)
    assert resized.shape == (8, 3, *shape[2:])
    same = T.ResizeTransform(4, 6, 4, 6).apply_image(image)
    np.testing.assert_allclose(same, image, rtol=1e-6)


def test_a_size_is_drawn_from_a_list():
    """Sizes for the numpy seeds 0 to 5, recorded from Detectron2 0.6 (main of 2026-06-06)."""
    augmentation = T.RandomResize([(2, 3), (5, 4), (8, 8)], interp=Image.NEAREST)
    drawn = []
    for seed in range(6):
        np.random.seed(seed)
        drawn.append(augmentation.get_transform(painted([0, 0, 1, 1])))
    assert [(t.new_h, t.new_w) for t in drawn] == [(2, 3), (5, 4), (2, 3), (8, 8), (8, 8), (8, 8)]
    assert {t.interp for t in drawn} == {Image.NEAREST}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_the_shortest_edge_serves_a_compiled_function():
    def shape_of(height: int, width: int):
        return T.ResizeShortestEdge.get_output_shape(height, width, 80, 133)

    compiled = torch.jit.script(shape_of)
    for height, width in ((10, 10), (8, 100), (100, 8)):
        assert compiled(height, width) == T.ResizeShortestEdge.get_output_shape(height, width, 80, 133)


@pytest.mark.parametrize(
    ("crop_type", "crop_size"),
    [
        ("relative", (0.5, 0.25)),
        ("relative_range", (0.5, 0.5)),
        ("absolute", (9, 99)),
        ("absolute_range", (5, 8)),
    ],
)
def test_crop_sizes(crop_type, crop_size):
    np.random.seed(0)
    crop = T.RandomCrop(crop_type, crop_size)
    image = np.arange(HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    seen = set()
    for _ in range(40):
        window = crop.get_transform(image).apply_image(image)
        seen.add(window.shape)
        assert (np.diff(window, axis=1) == 1).all()
    heights, widths = zip(*seen)
    if crop_type == "relative":
        assert seen == {(12, 8)}
    elif crop_type == "relative_range":
        assert min(heights) >= 12 and max(heights) <= HEIGHT and len(seen) > 5
    elif crop_type == "absolute":
        assert seen == {(9, WIDTH)}
    else:
        assert {*heights, *widths} == {5, 6, 7, 8}


def test_a_crop_that_does_not_fit_is_an_error():
    image = painted([0, 0, 1, 1])
    with pytest.raises(AssertionError):
        T.RandomCrop("square", (1, 1))
    with pytest.raises(AssertionError):
        T.RandomCrop("absolute_range", (8, 5)).get_transform(image)
    with pytest.raises(AssertionError):
        T.RandomCrop("relative", (1.5, 1)).get_transform(image)


@pytest.mark.subset
def test_a_crop_that_does_not_fit_says_why():
    with pytest.raises(AssertionError, match="crop_type"):
        T.RandomCrop("square", (1, 1))
    with pytest.raises(AssertionError, match="min, max"):
        T.RandomCrop("absolute_range", (8, 5))
    with pytest.raises(AssertionError, match="does not fit"):
        T.RandomCrop("relative", (1.5, 1)).get_transform(painted([0, 0, 1, 1]))


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 300), st.integers(1, 300))
def test_shortest_edge_respects_both_limits(height, width, short, longest):
    new_h, new_w = T.ResizeShortestEdge.get_output_shape(height, width, short, longest)
    assert max(new_h, new_w) <= longest
    assert min(new_h, new_w) <= short
    assert min(new_h, new_w) == short or max(new_h, new_w) == longest


def test_shortest_edge_of_zero_leaves_the_image():
    found = T.ResizeShortestEdge([0], sample_style="choice").get_transform(painted([0, 0, 1, 1]))
    assert isinstance(found, T.NoOpTransform)
    with pytest.raises(AssertionError):
        T.ResizeShortestEdge([1, 2, 3])
    with pytest.raises(AssertionError):
        T.ResizeShortestEdge(3, sample_style="best")


def test_colour():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    dark = T.RandomBrightness(0.5, 0.5).get_transform(image).apply_image(image)
    np.testing.assert_array_equal(dark, image // 2)
    flat = T.RandomContrast(0, 0).get_transform(image).apply_image(image)
    assert np.unique(flat).tolist() == [int(image.mean())]
    gray = T.RandomSaturation(0, 0).get_transform(image).apply_image(image)
    np.testing.assert_array_equal(gray[..., 0], gray[..., 1])
    np.testing.assert_array_equal(gray[..., 0], np.asarray(image @ [0.299, 0.587, 0.114], dtype=np.uint8))
    with pytest.raises(AssertionError, match="RGB"):
        T.RandomSaturation(0, 1).get_transform(image[:, :, 0])
    bright = T.RandomBrightness(3, 3).get_transform(image)
    assert bright.apply_image(image).max() == 255
    np.testing.assert_array_equal(bright.apply_box(np.array([[1.0, 2, 3, 4]])), [[1, 2, 3, 4]])


@pytest.mark.parametrize(("prob", "changed"), [(0.0, 0), (1.0, 20), (0.5, 10)])
def test_random_apply(prob, changed):
    np.random.seed(1)
    augmentation = T.RandomApply(T.HFlipTransform(WIDTH), prob)
    found = [isinstance(augmentation(T.AugInput(painted([0, 0, 1, 1]))), T.HFlipTransform) for _ in range(20)]
    assert abs(sum(found) - changed) <= (5 if 0 < prob < 1 else 0)


@pytest.mark.parametrize("prob", [-0.01, 1.01])
def test_random_apply_takes_probabilities(prob):
    with pytest.raises(AssertionError):
        T.RandomApply(T.RandomFlip(), prob)
    with pytest.raises(AssertionError):
        T.RandomApply("flip", 0.5)


def test_random_apply_gives_what_it_would_apply():
    """As Detectron2 0.6 (main of 2026-06-06): the transform itself, or what the augmentation draws, or nothing."""
    flip = T.HFlipTransform(WIDTH)
    image = painted([0, 0, 1, 1])
    assert T.RandomApply(flip, 1.0).get_transform(image) is flip
    assert T.RandomApply(flip, 1.0)(T.AugInput(image)) is flip
    drawn = T.RandomApply(CropToFirstBox(), 1.0).get_transform(image, np.array([[3.0, 4, 9, 8]]))
    assert (drawn.x0, drawn.y0, drawn.w, drawn.h) == (3, 4, 6, 4)
    assert isinstance(T.RandomApply(flip, 0.0).get_transform(image), T.NoOpTransform)
    together = T.RandomApply(T.AugmentationList([flip, T.Resize(5)]), 1.0)
    assert len(together(T.AugInput(image))) == 2
    with pytest.raises(NotImplementedError):
        together.get_transform(image)


def test_random_apply_draws_its_own_number_before_the_augmentation():
    np.random.seed(4)
    first, second = np.random.uniform(0, 1), np.random.uniform(0, 1)
    for way in ("__call__", "get_transform"):
        np.random.seed(4)
        image = painted([0, 0, 1, 1])
        augmentation = T.RandomApply(T.RandomBrightness(0, 1), first + 1e-9)
        found = getattr(augmentation, way)(T.AugInput(image) if way == "__call__" else image)
        assert found.dst_weight == second


class CropToFirstBox(T.Augmentation):
    def get_transform(self, image, boxes):
        x0, y0, x1, y1 = boxes[0].astype(int)
        assert image.ndim == 3
        return T.CropTransform(x0, y0, x1 - x0, y1 - y0)


def test_parameter_names_say_what_an_augmentation_looks_at():
    aug_input = T.AugInput(painted([3, 4, 9, 8]), boxes=np.array([[3.0, 4, 9, 8]]))
    CropToFirstBox()(aug_input)
    assert aug_input.image.shape == (4, 6, 3)
    assert aug_input.image.all()


class LooksAtMasks(T.Augmentation):
    def get_transform(self, image, masks):  # noqa: ARG002
        raise AssertionError("never called")


class TakesAnything(T.Augmentation):
    def get_transform(self, image, *args):  # noqa: ARG002
        raise AssertionError("never called")


class TakesAnythingAlone(T.Augmentation):
    def get_transform(self, *args):
        (image,) = args
        return T.HFlipTransform(image.shape[1])


class ReturnsNothing(T.Augmentation):
    def get_transform(self, img):  # noqa: ARG002
        return None


@pytest.mark.parametrize(
    ("augmentation", "error", "words"),
    [
        (LooksAtMasks(), AttributeError, "masks"),
        (TakesAnything(), TypeError, "TakesAnything"),
        (ReturnsNothing(), AssertionError, "must return a"),
    ],
)
def test_wrong_augmentations_say_what_is_wrong(augmentation, error, words):
    with pytest.raises(error, match=words):
        augmentation(T.AugInput(painted([0, 0, 1, 1])))


def test_a_single_parameter_is_the_image_whatever_its_kind():
    assert TakesAnythingAlone()(T.AugInput(painted([0, 0, 1, 1]))).width == WIDTH


@pytest.mark.parametrize("image", [[[1, 2]], np.zeros(3, dtype=np.uint8)])
def test_what_is_no_image_is_refused(image):
    with pytest.raises(AssertionError):
        T.AugInput(image)


@pytest.mark.subset
def test_an_image_of_integers_that_are_no_bytes_is_refused():
    """Detectron2 asks for uint8 or floating point in words, but lets them pass."""
    with pytest.raises(AssertionError, match=r"uint8 or floating point, got int64"):
        T.AugInput(np.zeros((2, 2), dtype=np.int64))


def test_label_maps_are_resized_by_nearest_neighbour():
    labels = np.array([[0, 7], [7, 0]], dtype=np.uint8)
    aug_input = T.AugInput(np.zeros((2, 2, 3), dtype=np.uint8), sem_seg=labels)
    T.Resize((4, 4))(aug_input)
    assert set(np.unique(aug_input.sem_seg)) == {0, 7}
    assert aug_input.sem_seg.shape == (4, 4)


def test_apply_augmentations_returns_the_kind_it_got():
    image, transforms = T.apply_augmentations([T.HFlipTransform(WIDTH)], painted([0, 0, 5, 5]))
    assert bounding_box(image) == [WIDTH - 5, 0, WIDTH, 5]
    assert len(transforms) == 1


def test_import_paths_of_detectron2():
    for module, names in {
        "augmentation": ["Augmentation", "AugmentationList", "AugInput", "StandardAugInput", "apply_augmentations"],
        "augmentation_impl": ["RandomRotation", "RandomApply", "MinIoURandomCrop", "RandomCrop_CategoryAreaConstraint"],
        "transform": ["RotationTransform", "ExtentTransform", "ColorTransform", "PILColorTransform", "ResizeTransform"],
    }.items():
        for name in names:
            found = getattr(importlib.import_module(f"detectron2.data.transforms.{module}"), name)
            assert found is getattr(T, name)


def test_names_of_early_detectron2():
    assert T.TransformGen is T.Augmentation
    assert T.apply_transform_gens is T.apply_augmentations


def test_a_config_names_what_it_builds_by_the_short_path(tmp_path):
    config = {"a": LazyCall(T.RandomRotation)(angle=3), "b": LazyCall(T.RandomApply)(prob=1.0)}
    LazyConfig.save(OmegaConf.create(config, flags={"allow_objects": True}), str(tmp_path / "config.yaml"))
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert "detectron2.data.transforms.RandomRotation" in text
    assert "detectron2.data.transforms.RandomApply" in text
