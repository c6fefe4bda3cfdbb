"""How augmentations print, as Detectron2 0.6 (main of 2026-06-06) prints them."""

import re

import numpy as np
import pytest
from detectron2.data import transforms as T
from PIL import Image


class Arguments(T.Augmentation):
    def __init__(self, first, second=(1, 2), third=None, fourth="x"):
        self._init(locals())


class ForgetsAnArgument(T.Augmentation):
    def __init__(self, first, second=2):  # noqa: ARG002
        self.second = second


class TakesAnything(T.Augmentation):
    def __init__(self, *sizes):
        self.sizes = sizes


class HasNoConstructor(T.Augmentation):
    pass


class OtherArguments(T.RandomFlip):
    def __init__(self, extra=3):
        super().__init__(prob=0.25)
        self.extra = extra


SHOWN = [
    (T.RandomFlip(), "RandomFlip()"),
    (T.RandomFlip(0.3), "RandomFlip(prob=0.3)"),
    (T.RandomFlip(prob=1), "RandomFlip(prob=1)"),
    # An equal value that a caller wrote down is another object than the default, and shown.
    (T.RandomFlip(prob=float("0.5")), "RandomFlip(prob=0.5)"),
    (T.RandomFlip(horizontal=True), "RandomFlip()"),
    (T.RandomFlip(horizontal=False, vertical=True), "RandomFlip(horizontal=False, vertical=True)"),
    (T.Resize(20), "Resize(shape=(20, 20))"),
    (T.Resize([20, 30], Image.BILINEAR), "Resize(shape=(20, 30))"),
    (T.ResizeShortestEdge(800), "ResizeShortestEdge(short_edge_length=(800, 800))"),
    (
        T.ResizeShortestEdge(short_edge_length=[640, 800], max_size=1333, sample_style="choice"),
        "ResizeShortestEdge(short_edge_length=[640, 800], max_size=1333, sample_style='choice')",
    ),
    # What would take more than one line is left out.
    (
        T.ResizeShortestEdge(list(range(100)), sample_style="choice"),
        "ResizeShortestEdge(short_edge_length=..., sample_style='choice')",
    ),
    (
        T.ResizeScale(0.1, 2.0, 1024, 512),
        "ResizeScale(min_scale=0.1, max_scale=2.0, target_height=1024, target_width=512)",
    ),
    (T.RandomResize([(1, 2), (3, 4)]), "RandomResize(shape_list=[(1, 2), (3, 4)])"),
    (T.FixedSizeCrop((3, 4), pad=False), "FixedSizeCrop(crop_size=(3, 4), pad=False)"),
    (T.RandomCrop("relative", (100, 100)), "RandomCrop(crop_type='relative', crop_size=(100, 100))"),
    (T.RandomRotation(30), "RandomRotation(angle=(30, 30))"),
    (
        T.RandomRotation(5.5, expand=False, center=[0.5, 0.5]),
        "RandomRotation(angle=(5.5, 5.5), expand=False, center=([0.5, 0.5], [0.5, 0.5]))",
    ),
    (T.RandomExtent((0.5, 2), (1, 1)), "RandomExtent(scale_range=(0.5, 2), shift_range=(1, 1))"),
    (T.RandomContrast(0.5, 1.5), "RandomContrast(intensity_min=0.5, intensity_max=1.5)"),
    (T.RandomLighting(0.1), "RandomLighting(scale=0.1)"),
    (T.MinIoURandomCrop(), "MinIoURandomCrop()"),
    (T.MinIoURandomCrop(min_crop_size=0.5), "MinIoURandomCrop(min_crop_size=0.5)"),
    (
        T.RandomCrop_CategoryAreaConstraint("relative", (0.5, 0.5), 0.75),
        "RandomCrop_CategoryAreaConstraint(crop_type='relative', crop_size=(0.5, 0.5), single_category_max_area=0.75)",
    ),
    (
        T.AugmentationList([T.RandomFlip(), T.HFlipTransform(4)]),
        "AugmentationList[RandomFlip(), HFlipTransform(width=4)]",
    ),
    (
        T.AugmentationList([T.AugmentationList([]), T.RandomFlip()]),
        "AugmentationList[AugmentationList[], RandomFlip()]",
    ),
    (Arguments(np.arange(3), fourth="y"), "Arguments(first=array([0, 1, 2]), fourth='y')"),
    (Arguments(np.arange(100), third=0), "Arguments(first=..., third=0)"),
    (OtherArguments(), "OtherArguments()"),
    (T.ResizeTransform(1, 2, 3, 4), "ResizeTransform(h=1, w=2, new_h=3, new_w=4, interp=2)"),
    (
        T.RotationTransform(4, 5, 30, False, (1, 2)),
        "RotationTransform(h=4, w=5, angle=30, expand=False, center=(1, 2), interp=1)",
    ),
    (T.ExtentTransform((0, 0, 1, 1), (3, 4)), "ExtentTransform(src_rect=(0, 0, 1, 1), output_size=(3, 4))"),
    (T.ColorTransform(len), "ColorTransform(op=<built-in function len>)"),
]


@pytest.mark.parametrize(("item", "text"), SHOWN, ids=[text[:40] for _, text in SHOWN])
def test_what_is_shown(item, text):
    assert str(item) == repr(item) == text


@pytest.mark.parametrize("item", [ForgetsAnArgument(1), TakesAnything(1), HasNoConstructor()], ids=type)
def test_what_cannot_be_shown_prints_as_any_object(item):
    assert re.fullmatch(rf"<.*{type(item).__name__} object at 0x\w+>", repr(item))


@pytest.mark.subset
def test_what_is_applied_now_and_then_is_shown():
    """Detectron2 prints RandomApply as a bare object."""
    assert repr(T.RandomApply(T.RandomFlip())) == "RandomApply(tfm_or_aug=RandomFlip())"
    assert repr(T.RandomApply(T.HFlipTransform(3), 0.3)) == "RandomApply(tfm_or_aug=HFlipTransform(width=3), prob=0.3)"
