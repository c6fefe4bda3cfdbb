"""The registry of backbones."""

from detectron2.utils.registry import Registry

BACKBONE_REGISTRY = Registry("BACKBONE")
