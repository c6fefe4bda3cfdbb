"""Statistics of batch norms over several processes."""

import torch
from detectron2.utils import comm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def average_statistics(model: nn.Module) -> None:
    """Give all processes the mean of their running statistics, of batch norms that are in training mode.

    Each process gathers them from images of its own; before an evaluation or a checkpoint they have to be one model.
    A collective call: every process must make it.
    """
    if comm.get_world_size() == 1:
        return
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    tensors = [t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None]
    if not tensors:
        return
    flat = torch.cat([tensor.flatten().double() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    start = 0
    for tensor in tensors:
        tensor.copy_((flat[start : start + tensor.numel()] / comm.get_world_size()).view_as(tensor))
        start += tensor.numel()
