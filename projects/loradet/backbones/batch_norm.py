"""What batch norms of a ResNet do, by whether it has pretrained weights."""

import os


def batch_norm_for(weights: str | os.PathLike | None) -> str:
    """Detectron2's name of it: "FrozenBN" keeps the statistics of pretrained weights, "BN" trains without them."""
    return "BN" if weights is None else "FrozenBN"


def gathers_statistics(weights: str | os.PathLike | None) -> bool:
    """Whether batch norms have statistics to gather even where they are frozen (`statistics` of `adapters.freeze`)."""
    return batch_norm_for(weights) == "BN"
