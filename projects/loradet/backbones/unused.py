"""Parameters that nothing a network gives depends on."""

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from loradet.adapters.filled import mark_loaded

logger = logging.getLogger(__name__)


def stop_training_unused(
    net: nn.Module,
    size: tuple[int, int, int],
    name: str,
    run: Callable[[Tensor], Iterable[Tensor]] | None = None,
) -> None:
    """Freeze parameters that no output depends on: DistributedDataParallel waits for a gradient of each.

    Args:
        net: changed in place; its mode stays.
        size: (C, H, W) of an image that it takes.
        name: of it, for the log.
        run: gives its outputs for images (N, C, H, W); None: the network itself.
    """
    trainable = {key: parameter for key, parameter in net.named_parameters() if parameter.requires_grad}
    if not trainable:
        return
    was_training = net.training
    net.eval()
    first = next(iter(trainable.values()))
    with torch.enable_grad():
        outputs = (run or net)(torch.zeros(1, *size, dtype=first.dtype, device=first.device))
        total = sum(output.sum() for output in outputs)
        gradients = torch.autograd.grad(total, list(trainable.values()), allow_unused=True)
    net.train(was_training)
    unused = [key for key, gradient in zip(trainable, gradients) if gradient is None]
    for key in unused:
        trainable[key].requires_grad_(False)
    mark_loaded(net, unused)  # as good as any: nothing depends on them
    if unused:
        logger.info("%s: %d parameters that the outputs do not use are frozen", name, len(unused))
