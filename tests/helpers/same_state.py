"""Whether two checkpoints hold the same, bit for bit."""

import torch


def same(a: object, b: object) -> bool:
    """Equal dicts, lists, tensors and plain values, however deep."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
