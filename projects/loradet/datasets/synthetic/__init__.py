"""Synthetic scenes with six classes, SAR-like or optical-like, fully determined by a seed."""

from loradet.datasets.synthetic.compose import scene
from loradet.datasets.synthetic.shapes import CLASSES
from loradet.datasets.synthetic.writer import generate

__all__ = ["CLASSES", "generate", "scene"]
