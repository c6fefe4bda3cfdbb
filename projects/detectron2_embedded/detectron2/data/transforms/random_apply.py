"""An augmentation that is applied now and then."""

from typing import Any

from detectron2.data.transforms.augmentation import AugInput, Augmentation, as_augmentation
from fvcore.transforms.transform import NoOpTransform, Transform


class RandomApply(Augmentation):
    """Apply an augmentation or a transform with probability `prob`, else nothing.

    Raises:
        AssertionError: `prob` is not in [0, 1], or `tfm_or_aug` is neither of the two.
    """

    def __init__(self, tfm_or_aug: Augmentation | Transform, prob: float = 0.5):
        if not 0.0 <= prob <= 1.0:
            raise AssertionError(f"prob must be in [0, 1], got {prob}.")
        self.tfm_or_aug = tfm_or_aug
        self.aug = as_augmentation(tfm_or_aug)
        self.prob = prob

    def get_transform(self, *args: Any) -> Transform:
        """What the augmentation draws for `args` (the transform itself where one was given), or a no-op."""
        return self.aug.get_transform(*args) if self._happens() else NoOpTransform()

    def __call__(self, aug_input: AugInput) -> Transform:
        return self.aug(aug_input) if self._happens() else NoOpTransform()

    def _happens(self) -> bool:
        return self._rand_range() < self.prob
