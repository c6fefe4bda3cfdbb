"""Augmentation: a policy that looks at an input, draws numbers, and returns a deterministic Transform."""

import inspect
import pprint
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList


class Augmentation:
    """Base class of augmentation policies.

    Subclasses define `get_transform(self, image, ...)`. Its parameter names say which attributes of the
    `AugInput` it looks at; a policy with one parameter gets the image, whatever that parameter's name. All
    random numbers come from numpy's global generator.

    It prints as the call that makes it, with those arguments that are not the constructor's own defaults. For
    that each argument is kept as an attribute of its name.
    """

    input_args: tuple[str, ...] | None = None

    def get_transform(self, *args: Any) -> Transform:
        """Draw and return a Transform for this input.

        Raises:
            NotImplementedError: the augmentation has none, as an `AugmentationList`: what follows the first one
                looks at what the first one made.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define get_transform.")

    def __call__(self, aug_input: "AugInput") -> Transform:
        """Draw a transform, apply it to `aug_input` in place, and return it.

        Raises:
            AttributeError: `aug_input` lacks what `get_transform` looks at.
            AssertionError: `get_transform` returned something else than a Transform.
        """
        transform = self.get_transform(*self._select_inputs(aug_input))
        if not isinstance(transform, Transform):
            raise AssertionError(
                f"{type(self).__name__}.get_transform must return a Transform, it returned {transform!r}."
            )
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
        return np.random.uniform(low, high, [] if size is None else size)

    def __repr__(self) -> str:
        parameters = inspect.signature(self.__init__).parameters
        if not all(_can_be_shown(self, parameter) for parameter in parameters.values()):
            return super().__repr__()
        # The very object of the default is left out; an equal one that a caller wrote down is shown.
        given = [name for name, parameter in parameters.items() if getattr(self, name) is not parameter.default]
        return f"{type(self).__name__}({', '.join(f'{name}={_one_line(getattr(self, name))}' for name in given)})"

    __str__ = __repr__


def _can_be_shown(augmentation: Augmentation, parameter: inspect.Parameter) -> bool:
    is_variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return not is_variadic and hasattr(augmentation, parameter.name)


def _one_line(value: Any) -> str:
    text = pprint.pformat(value)
    return "..." if "\n" in text else text


def _parameter_names(augmentation: Augmentation) -> tuple[str, ...]:
    parameters = list(inspect.signature(augmentation.get_transform).parameters.values())
    if len(parameters) == 1:
        return ("image",)
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise TypeError(
            f"{type(augmentation).__name__}.get_transform must name its inputs: *args and **kwargs do not "
            "say what to pass. Name them, or set `input_args`."
        )
    return tuple(parameter.name for parameter in parameters)


class AugInput:
    """What augmentations read and transform: an image, its boxes, its label map.

    Attributes:
        image: (H, W) or (H, W, C), uint8 in [0, 255] or floating point.
        boxes: (N, 4) floating point, XYXY absolute pixels, or None.
        sem_seg: (H, W) integer label map, or None.

    Raises:
        AssertionError: the image is no such array.
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
        raise AssertionError(f"An image must be a numpy array, got {type(image).__name__}.")
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise AssertionError(f"An image must be uint8 or floating point, got {image.dtype}.")
    if image.ndim not in (2, 3):
        raise AssertionError(f"An image must have shape (H, W) or (H, W, C), got {image.shape}.")


class _FixedTransform(Augmentation):
    """A Transform that stands among augmentations."""

    input_args = ()

    def __init__(self, tfm: Transform):
        self.tfm = tfm

    def get_transform(self, *args: Any) -> Transform:  # noqa: ARG002
        return self.tfm

    def __repr__(self) -> str:
        return repr(self.tfm)

    __str__ = __repr__


def as_augmentation(item: Augmentation | Transform) -> Augmentation:
    """An augmentation as it is, a Transform as an augmentation that always gives it."""
    if isinstance(item, Augmentation):
        return item
    if isinstance(item, Transform):
        return _FixedTransform(item)
    raise AssertionError(f"Expected an Augmentation or a Transform, got {item!r}.")


class AugmentationList(Augmentation):
    """Augmentations (or transforms) in sequence; each sees what the one before left.

    Raises:
        AssertionError: an item is neither.
    """

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


# Names that code written for early Detectron2 uses.
TransformGen = Augmentation
apply_transform_gens = apply_augmentations
