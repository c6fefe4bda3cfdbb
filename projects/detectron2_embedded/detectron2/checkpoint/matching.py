"""Matching of weights whose names lack the prefix that they have inside a larger model."""

import logging
from collections.abc import Mapping

import torch

logger = logging.getLogger("detectron2.checkpoint.c2_model_loading")


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
        The weights under the model's keys, in alphabetical order, then those that match nothing, or only a
        tensor of another shape (with a warning), under their own names.

    Raises:
        ValueError: two keys of the model match the same weight.
    """
    taken: dict[str, str] = {}
    renamed: dict[str, torch.Tensor] = {}
    for key in sorted(model_state):
        source = _longest_suffix(key, weights)
        if source is None:
            continue
        found, expected = weights[source].shape, model_state[key].shape
        if found != expected:
            logger.warning(
                "%s of the file has shape %s, but %s of the model has %s: it is not loaded.",
                source,
                tuple(found),
                key,
                tuple(expected),
            )
            continue
        if source in taken:
            raise ValueError(
                f"{source!r} of the file matches both {taken[source]!r} and {key!r} of the model. Rename the "
                "keys of the file as the model has them, and load it without matching_heuristics."
            )
        taken[source] = key
        renamed[key] = weights[source]
    if not renamed:
        logger.warning("No weight of the file has a name in which a name of the model ends.")
        return dict(weights)
    logger.info("Matched %d of the model's %d tensors by the ends of their names.", len(renamed), len(model_state))
    return {**renamed, **{name: weights[name] for name in sorted(weights) if name not in taken}}


def _longest_suffix(key: str, names: Mapping[str, torch.Tensor]) -> str | None:
    parts = key.split(".")
    return next((s for s in (".".join(parts[i:]) for i in range(len(parts))) if s in names), None)
