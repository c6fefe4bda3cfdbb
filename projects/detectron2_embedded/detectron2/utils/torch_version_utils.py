"""Comparison with torch's version."""

import torch
from torch.torch_version import TorchVersion

__all__ = ["min_torch_version"]


def min_torch_version(min_version: str) -> bool:
    """Whether torch is of this version or a later one; what follows a "+" in its version does not count."""
    return TorchVersion(torch.__version__.partition("+")[0]) >= min_version
