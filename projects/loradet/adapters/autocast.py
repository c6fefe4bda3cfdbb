"""What autocast does on a tensor's device at present."""

import torch
from torch import Tensor


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """What autocast's linear maps would cast a tensor to; None where they leave it."""
    device = x.device.type
    eligible = x.is_floating_point() and x.dtype != torch.float64
    if eligible and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def autocast_state(x: Tensor) -> tuple[str, bool, torch.dtype] | None:
    """Type of device, whether autocast is on there, and its dtype; None where there is no autocast."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device):
        return None
    return device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
