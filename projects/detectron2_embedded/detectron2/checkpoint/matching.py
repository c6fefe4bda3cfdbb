"""Matching of weights whose names lack the prefix that they have inside a larger model."""

import logging
from collections.abc import Mapping

import torch

logger = logging.getLogger(__name__)


def match_by_suffix(
    model_state: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Rename weights to the model's keys that end in their names.

    `backbone.bottom_up.stem.conv1.weight` takes `bottom_up.stem.conv1.weight` if there is one, else
    `stem.conv1.weight`, and so on; whole dotted parts count.

    Args:
        model_state: state dict of the model.
        weights: state dict of the file.

    Returns:
        The weights under the model's keys. Those of another shape are left out with a warning, those that
        match nothing keep their names.

    Raises:
        ValueError: two keys of the model match the same weight.
    """
    taken: dict[str, str] = {}
    renamed: dict[str, torch.Tensor] = {}
    for key, value in model_state.items():
        source = _longest_suffix(key, weights)
        if source is None:
            continue
        weight = weights[source]
        if weight.shape != value.shape:
            logger.warning(
                "%s of the file has shape %s, but %s of the model has %s: it is not loaded.",
                source,
                tuple(weight.shape),
                key,
                tuple(value.shape),
            )
            continue
        if source in taken:
            raise ValueError(
                f"{source!r} of the file matches both {taken[source]!r} and {key!r} of the model. Rename the "
                "keys of the file as the model has them, and load it without matching_heuristics."
            )
        taken[source] = key
        renamed[key] = weight
    rest = {name: weight for name, weight in weights.items() if name not in taken and name not in model_state}
    logger.info("Matched %d of the model's %d tensors by the ends of their names.", len(renamed), len(model_state))
    return {**renamed, **rest}


def _longest_suffix(key: str, names: Mapping[str, torch.Tensor]) -> str | None:
    parts = key.split(".")
    return next((s for s in (".".join(parts[i:]) for i in range(len(parts))) if s in names), None)
