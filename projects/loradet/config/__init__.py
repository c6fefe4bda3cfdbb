"""Configs: loaded, checked, completed, edited.

`loradet.config.load` reads a file, `overrides` checks what the command line changes, `settings` has the keys of
`train`, `splits` the data loaders by name, `edits` what is changed for inference, `description` what a model is.
"""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.config.description import describe
    from loradet.config.library import copy_config, find_config, get_config, list_configs
    from loradet.config.load import load_config
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["copy_config", "describe", "find_config", "get_config", "list_configs", "load_config"]
