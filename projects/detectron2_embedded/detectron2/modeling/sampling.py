"""Which of the labelled anchors or proposals a loss is taken over."""

import torch

__all__ = ["subsample_labels"]


def subsample_labels(
    labels: torch.Tensor, num_samples: int, positive_fraction: float, bg_label: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw positives and negatives at random, without replacement.

    Where there are fewer positives than asked for, negatives take their place; where those run out too, the
    sample is smaller.

    Args:
        labels: (N,): -1 for ignored, `bg_label` for negative, any other number for positive.
        num_samples: size of the sample.
        positive_fraction: largest part of it that may be positive, in [0, 1]; rounded down.
        bg_label: label of the negatives.

    Returns:
        Indices of the positives and of the negatives drawn, int64, in random order.
    """
    background = labels == bg_label
    positive = ((labels != -1) & ~background).nonzero().flatten()
    negative = background.nonzero().flatten()
    num_positive = min(int(num_samples * positive_fraction), len(positive))
    num_negative = min(num_samples - num_positive, len(negative))
    return _draw(positive, num_positive), _draw(negative, num_negative)


def _draw(indices: torch.Tensor, count: int) -> torch.Tensor:
    return indices[torch.randperm(len(indices), device=indices.device)[:count]]
