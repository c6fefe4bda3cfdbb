"""The device that a config names."""

import torch

from loradet.errors import UserError


def choose_device(name: str) -> torch.device:
    """The device that `train.device` names; "auto" is CUDA where there is a device, else the CPU.

    Raises:
        ValueError: no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"train.device={name} is no device; use auto, cpu, cuda or cuda:0.") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise UserError(f"train.device={name}, but torch sees {count} CUDA devices; use train.device=auto or cpu.")
        if device.index is None:
            return torch.device("cuda", torch.cuda.current_device())
    return device
