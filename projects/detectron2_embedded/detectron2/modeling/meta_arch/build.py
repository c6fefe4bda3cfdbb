"""The registry of detectors."""

from detectron2._subset import missing_names
from detectron2.utils.registry import Registry

META_ARCH_REGISTRY = Registry("META_ARCH")


__getattr__ = missing_names(__name__, ["build_model"])
