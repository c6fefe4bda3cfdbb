"""What a module says about the shape of a feature map."""

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """What is known of a feature map: its size in its own pixels, its stride in pixels of the image."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
