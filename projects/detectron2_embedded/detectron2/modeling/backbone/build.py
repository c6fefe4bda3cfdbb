"""The registry of backbones."""

from detectron2._subset import missing_names
from detectron2.utils.registry import Registry

BACKBONE_REGISTRY = Registry("BACKBONE")


__getattr__ = missing_names(__name__, ["build_backbone"])
