"""Augmentation: a policy that looks at an input, draws numbers, and returns a deterministic Transform."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList


class Augmentation:
    """Base class of augmentation policies.

    Subclasses define `get_transform(self, image, ...)`. Its parameter names say which attributes of the
    `AugInput` it looks at; a policy with one parameter gets the image, whatever that parameter's name. All
    random numbers come from numpy's global generator.
    """

    input_args: tuple[str, ...] | None = None

    def get_transform(self, *args: Any) -> Transform:
        """Draw and return a Transform for this input."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_transform.")

    def __call__(self, aug_input: "AugInput") -> Transform:
        """Draw a transform, apply it to `aug_input` in place, and return it."""
        transform = self.get_transform(*self._select_inputs(aug_input))
        if not isinstance(transform, Transform):
            raise TypeError(f"{type(self).__name__}.get_transform must return a Transform, it returned {transform!r}.")
        aug_input.transform(transform)
        return transform

    def _select_inputs(self, aug_input: "AugInput") -> list[Any]:
        if self.input_args is None:
            self.input_args = _parameter_names(self)
        missing = [name for name in self.input_args if not hasattr(aug_input, name)]
        if missing:
            raise AttributeError(
                f"{type(self).__name__}.get_transform asks for {', '.join(missing)}, "
                f"which {type(aug_input).__name__} does not have. It has: {', '.join(vars(aug_input))}."
            )
        return [getattr(aug_input, name) for name in self.input_args]

    def _init(self, params: dict[str, Any] | None = None) -> None:
        """Store the constructor's arguments, given as `locals()`, as attributes."""
        for name, value in (params or {}).items():
            if name != "self" and not name.startswith("_"):
                setattr(self, name, value)

    def _rand_range(self, low: float = 1.0, high: float | None = None, size: Any = None) -> Any:
        """Uniform in [low, high), or in [0, low) where `high` is None."""
        if high is None:
            low, high = 0, low
        return np.random.uniform(low, high, size or [])

    def __repr__(self) -> str:
        names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names if hasattr(self, name))
        return f"{type(self).__name__}({shown})"

    __str__ = __repr__


def _parameter_names(augmentation: Augmentation) -> tuple[str, ...]:
    parameters = list(inspect.signature(augmentation.get_transform).parameters.values())
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise TypeError(
            f"{type(augmentation).__name__}.get_transform must name its inputs: *args and **kwargs do not "
            "say what to pass. Name them, or set `input_args`."
        )
    if len(parameters) == 1:
        return ("image",)
    return tuple(parameter.name for parameter in parameters)


class AugInput:
    """What augmentations read and transform: an image, its boxes, its label map.

    Attributes:
        image: (H, W) or (H, W, C), uint8 in [0, 255] or floating point.
        boxes: (N, 4) floating point, XYXY absolute pixels, or None.
        sem_seg: (H, W) integer label map, or None.
    """

    def __init__(self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None):
        _check_image(image)
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Apply `tfm` to everything that is held here."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations: Sequence[Augmentation | Transform]) -> TransformList:
        """Apply one after the other and return what was applied."""
        return AugmentationList(augmentations)(self)


StandardAugInput = AugInput


def _check_image(image: Any) -> None:
    if not isinstance(image, np.ndarray):
        raise TypeError(f"An image must be a numpy array, got {type(image).__name__}.")
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"An image must be uint8 or floating point, got {image.dtype}.")
    if image.ndim not in (2, 3):
        raise ValueError(f"An image must have shape (H, W) or (H, W, C), got {image.shape}.")


class _FixedTransform(Augmentation):
    """A Transform that stands among augmentations."""

    input_args = ()

    def __init__(self, tfm: Transform):
        self.tfm = tfm

    def get_transform(self) -> Transform:
        return self.tfm

    def __repr__(self) -> str:
        return repr(self.tfm)


def as_augmentation(item: Augmentation | Transform) -> Augmentation:
    """An augmentation as it is, a Transform as an augmentation that always gives it."""
    if isinstance(item, Augmentation):
        return item
    if isinstance(item, Transform):
        return _FixedTransform(item)
    raise TypeError(f"Expected an Augmentation or a Transform, got {item!r}.")


class AugmentationList(Augmentation):
    """Augmentations (or transforms) in sequence; each sees what the one before left."""

    def __init__(self, augs: Sequence[Augmentation | Transform]):
        self.augs = [as_augmentation(item) for item in augs]

    def __call__(self, aug_input: AugInput) -> TransformList:
        return TransformList([augmentation(aug_input) for augmentation in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(map(repr, self.augs))}]"

    __str__ = __repr__


def apply_augmentations(
    augmentations: Sequence[Augmentation | Transform], inputs: AugInput | np.ndarray
) -> tuple[AugInput | np.ndarray, TransformList]:
    """Apply to an `AugInput`, or to an image alone; returns the same kind of input and what was applied."""
    if isinstance(inputs, np.ndarray):
        aug_input = AugInput(inputs)
        transforms = aug_input.apply_augmentations(augmentations)
        return aug_input.image, transforms
    return inputs, inputs.apply_augmentations(augmentations)
