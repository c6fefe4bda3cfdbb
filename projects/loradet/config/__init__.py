"""Configs: loaded, checked, completed, edited.

`loradet.config.load` reads a file, `overrides` checks what the command line changes, `settings` has the keys of
`train`, `splits` the data loaders by name, `edits` what is changed for inference, `description` what a model is.
"""

from loradet.config.description import describe
from loradet.config.load import load_config

__all__ = ["describe", "load_config"]
