"""Configs that come with Detectron2, by their path below its `configs/`: those of detectors of boxes."""

from detectron2.model_zoo.model_zoo import get, get_checkpoint_url, get_config, get_config_file

__all__ = ["get", "get_checkpoint_url", "get_config", "get_config_file"]
