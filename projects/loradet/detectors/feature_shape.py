"""Says in a config what shape of features a head takes."""

from detectron2.layers import ShapeSpec


def feature_shape(
    *, channels: int, height: int | None = None, width: int | None = None, stride: int | None = None
) -> ShapeSpec:
    """Detectron2's `ShapeSpec`, as a function: `LazyConfig.to_py` of Detectron2 fails on `LazyCall` of a dataclass.

    Args:
        channels: C of the features (N, C, H, W).
        height: H, where it is fixed, as behind a pooler.
        width: W, likewise.
        stride: pixels of the image between neighbours.
    """
    return ShapeSpec(channels=channels, height=height, width=width, stride=stride)
