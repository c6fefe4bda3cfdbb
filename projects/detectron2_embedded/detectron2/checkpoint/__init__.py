"""Saving and loading of models with optimizer and trainer states."""

from detectron2._subset import missing_names
from detectron2.checkpoint.detection_checkpoint import DetectionCheckpointer
from detectron2.checkpoint.periodic import PeriodicCheckpointer
from fvcore.common.checkpoint import Checkpointer

__all__ = ["Checkpointer", "DetectionCheckpointer", "PeriodicCheckpointer"]

__getattr__ = missing_names(__name__, ["catalog"])
