"""The registry of detectors."""

from detectron2.utils.registry import Registry

META_ARCH_REGISTRY = Registry("META_ARCH")
