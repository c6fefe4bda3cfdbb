"""Which batch norm a ResNet takes, with and without pretrained weights."""

import os


def batch_norm_for(weights: str | os.PathLike | None, checkpoint: str | os.PathLike | None = None) -> str:
    """Detectron2's name of it: "FrozenBN" keeps the statistics of pretrained weights, "BN" trains without them.

    Args:
        weights: file that the backbone starts from, if any.
        checkpoint: file that the whole detector starts from, if any.
    """
    return "FrozenBN" if weights or checkpoint else "BN"


def gathers_statistics(weights: str | os.PathLike | None, checkpoint: str | os.PathLike | None = None) -> bool:
    """Whether batch norms have statistics to gather even where they are frozen (`statistics` of `adapters.freeze`)."""
    return batch_norm_for(weights, checkpoint) == "BN"
