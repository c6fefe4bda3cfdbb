"""Which views of an image a mapper gives, told without reading the image."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from fvcore.transforms.transform import HFlipTransform, NoOpTransform, Transform, TransformList, VFlipTransform

from loradet.datasets.mapper import DetectionMapper
from loradet.errors import UserError
from loradet.feature_cache.plain_values import describe

SETTING = "train.feature_cache.enabled=True"
_FLIPS = {HFlipTransform: "flipped left to right", VFlipTransform: "flipped upside down"}
_FIXED = ("_FixedTransform", "_TransformToAug")  # a transform among augmentations, as embedded and installed wrap it
_COLOURS = "changes colours at random"
_KINDS = {
    **dict.fromkeys(["RandomBrightness", "RandomContrast", "RandomSaturation", "RandomColor"], _COLOURS),
    "Mosaic": "puts other images beside it",
}


@dataclass(frozen=True)
class View:
    """One of the finitely many pictures that augmentations make of an image.

    Attributes:
        text: what was done to the image, as "256x256 from 480x640 by filter 2, flipped left to right".
        number: of the view among those of an image, from 0.
        size: (height, width) in pixels.
    """

    text: str
    number: int
    size: tuple[int, int]


@dataclass(frozen=True)
class ViewPlan:
    """What is known of a mapper's views before any is drawn.

    Attributes:
        count: views that an image has.
        size: (height, width) of all of them, pixels; None: it depends on the image.
        resized_by: the augmentation that leaves it open.
    """

    count: int
    size: tuple[int, int] | None
    resized_by: str


def plan_views(mapper: Any, key: str) -> ViewPlan:
    """What views a mapper gives.

    Args:
        mapper: a DetectionMapper, or Detectron2's.
        key: of the mapper in the config, for messages.

    Raises:
        UserError: names what makes views endless, or what cannot be looked into.
    """
    own = type(mapper).__call__
    if own not in (DetectionMapper.__call__, DatasetMapper.__call__):
        raise UserError(
            f"{SETTING}: {key} is a {type(mapper).__name__}, whose views are unknown; expected a DetectionMapper."
        )
    if mapper.proposal_topk is not None:
        raise UserError(f"{SETTING}: {key} loads precomputed proposals, which the cache does not keep.")
    count, resized_by = 1, "no resize"
    size: tuple[int, int] | None = None
    for augmentation in _flat(mapper.augmentations):
        if type(augmentation) is T.Resize:
            height, width = augmentation.shape
            size, resized_by = (int(height), int(width)), ""
        elif type(augmentation) is T.ResizeShortestEdge:
            _check_one_length(augmentation, key)
            size, resized_by = None, "ResizeShortestEdge"
        elif type(augmentation) is T.RandomFlip:
            count *= 2 if 0.0 < augmentation.prob < 1.0 else 1
        elif not isinstance(_fixed_transform(augmentation), (NoOpTransform, *_FLIPS)):
            raise UserError(_forbidden(augmentation, key))
    return ViewPlan(count, size, resized_by)


def _flat(augmentations: T.AugmentationList) -> Iterator[T.Augmentation]:
    for augmentation in augmentations.augs:
        if isinstance(augmentation, T.AugmentationList):
            yield from _flat(augmentation)
        else:
            yield augmentation


def _check_one_length(augmentation: Any, key: str) -> None:
    lengths = sorted({int(length) for length in augmentation.short_edge_length})
    if len(lengths) > 1:
        between = f"from {lengths[0]} to {lengths[-1]}" if augmentation.is_range else f"of {lengths}"
        raise UserError(
            f"{SETTING}: {key}.augmentations has ResizeShortestEdge, which draws short edges {between}: features are "
            "kept of one size. Give it one length, or leave the cache off."
        )


def _fixed_transform(augmentation: T.Augmentation) -> Transform | None:
    """The transform that stands among augmentations; None of others."""
    return getattr(augmentation, "tfm", None) if type(augmentation).__name__ in _FIXED else None


def _forbidden(augmentation: T.Augmentation, key: str) -> str:
    name = type(_fixed_transform(augmentation) or augmentation).__name__
    what = _KINDS.get(name, "is neither a resize to one size nor a flip")
    return (
        f"{SETTING}: {key}.augmentations has {name}, which {what}: features are kept per view of an image, and there "
        f"have to be few. Take {name} out, or leave the cache off."
    )


def draw_view(mapper: Any, height: int, width: int) -> tuple[View, TransformList]:
    """Draw a view as the mapper would: the same numbers of numpy's generator make the same view.

    Args:
        mapper: that `plan_views` has let pass.
        height, width: of the image, pixels.

    Returns:
        The view, and the transforms that make it, for boxes too.
    """
    outline = _Outline(height, width)
    transforms = mapper.augmentations(outline)
    words, number, bit = [], 0, 1
    for augmentation, transform in zip(_flat(mapper.augmentations), _leaves(transforms), strict=True):
        if isinstance(transform, T.ResizeTransform):
            one = transform
            words.append(f"{one.new_h}x{one.new_w} from {one.h}x{one.w} by filter {int(one.interp)}")
        words += [text for kind, text in _FLIPS.items() if isinstance(transform, kind)]
        if type(augmentation) is T.RandomFlip and 0.0 < augmentation.prob < 1.0:
            number += 0 if isinstance(transform, NoOpTransform) else bit
            bit *= 2
    return View(", ".join(words) or "as it is", number, outline.image.shape[:2]), transforms


def _leaves(transforms: TransformList) -> Iterator[Transform]:
    for transform in transforms.transforms:
        if isinstance(transform, TransformList):
            yield from _leaves(transform)
        else:
            yield transform


class _Outline(T.AugInput):
    """An image under augmentation of which nothing but the size is known."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__(_blank(height, width))

    def transform(self, tfm: Transform) -> None:
        for one in _leaves(tfm) if isinstance(tfm, TransformList) else (tfm,):
            if isinstance(one, T.ResizeTransform):
                # As the mapper does: a thin strip keeps a pixel.
                one.new_h, one.new_w = max(1, one.new_h), max(1, one.new_w)
                self.image = _blank(one.new_h, one.new_w)


def _blank(height: int, width: int) -> np.ndarray:
    return np.broadcast_to(np.uint8(0), (height, width, 3))


def describe_mapper(mapper: Any) -> dict[str, Any]:
    """What besides the view decides a mapper's pixels: its class, and its attributes.

    Raises:
        UserError: names an attribute that cannot be told from others of its kind.
    """
    left_out = ("is_train", "augmentations", "cache")  # none of them changes pixels of a view
    found: dict[str, Any] = {"class": f"{type(mapper).__module__}.{type(mapper).__qualname__}"}
    for name, value in sorted(vars(mapper).items()):
        if name in left_out:
            continue
        try:
            found[name] = describe(value)
        except TypeError as error:
            raise UserError(
                f"{SETTING}: {type(mapper).__name__}.{name} is or holds a {error}, which may decide what pixels are, "
                "and cannot be told from another one; expected numbers, texts, lists, dicts, arrays or dataclasses."
            ) from error
    return found
