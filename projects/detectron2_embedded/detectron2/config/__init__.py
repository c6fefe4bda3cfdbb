"""Lazy configs: Python files that describe objects, and `instantiate`, which builds them."""

from detectron2._subset import missing_names
from detectron2.config.instantiate import instantiate
from detectron2.config.lazy import LazyCall, LazyConfig

__all__ = ["LazyCall", "LazyConfig", "instantiate"]

# The older, yacs-based system.
__getattr__ = missing_names(
    __name__,
    [
        "CfgNode",
        "compat",
        "config",
        "configurable",
        "defaults",
        "downgrade_config",
        "get_cfg",
        "global_cfg",
        "set_global_cfg",
        "upgrade_config",
    ],
)
