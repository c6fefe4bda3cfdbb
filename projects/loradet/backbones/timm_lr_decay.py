"""Learning rates that fall from a timm network's last layer to its first, as timm numbers them."""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch

from loradet.backbones.timm_factory import describe
from loradet.errors import UserError


def timm_lr_factors(*, model_name: str, lr_decay_rate: float, **timm_kwargs: Any) -> Callable[[str], float]:
    """Factors of the learning rate: `lr_decay_rate` to the number of layers above (Bao et al., "BEiT", section 3.2).

    In a config: `optimizer.params.base_lr = "${..lr}"`, which the factors apply to, and
    `optimizer.params.lr_factor_func = L(timm_lr_factors)(model_name="convnext_tiny", lr_decay_rate=0.8)`.
    Adapters have the factor of the layer that they are in; all but the backbone keeps the full rate.

    Args:
        model_name: of timm, as of the backbone.
        lr_decay_rate: factor a layer, above 0 and at most 1.
        timm_kwargs: what changes the number of layers, as `depths`.

    Returns:
        Name of a parameter of a detector → factor, for `lr_factor_func` of `get_default_optimizer_params`.

    Raises:
        UserError: the rate is out of range, or timm does not number the layers of this network.
    """
    if not 0 < lr_decay_rate <= 1:
        raise UserError(f"timm_lr_factors: lr_decay_rate={lr_decay_rate}; expected above 0 and at most 1.")
    describe(model_name, timm_kwargs, out_indices=[0])  # which says what is wrong with a name
    with torch.device("meta"):
        net = timm.create_model(model_name, **timm_kwargs)
    if not hasattr(net, "group_matcher"):
        raise UserError(f"timm_lr_factors: timm does not number the layers of {model_name!r} (no group_matcher).")
    layers = timm.models.group_parameters(net, net.group_matcher(coarse=False), reverse=True)
    last = max(layers.values())
    factors = {name: lr_decay_rate ** (last - layer) for name, layer in layers.items()}
    by_module: dict[str, float] = {}
    for name, factor in factors.items():
        by_module.setdefault(name.rpartition(".")[0], factor)
    return functools.partial(_factor, factors={**_by_block(factors), **by_module, **factors})


def _by_block(factors: Mapping[str, float]) -> dict[str, float]:
    """Paths of modules all of whose parameters have one factor, which what is added to them has too."""
    found: dict[str, set[float]] = {}
    for name, factor in factors.items():
        path = name
        while path := path.rpartition(".")[0]:
            found.setdefault(path, set()).add(factor)
    return {path: min(values) for path, values in found.items() if len(values) == 1}


def _factor(name: str, factors: Mapping[str, float]) -> float:
    if not name.startswith("backbone."):
        return 1.0
    parts = name.split(".")
    for start in (i + 1 for i, part in enumerate(parts) if part == "net"):
        # A network of maps has `stages_0` where the whole one has `stages.0`.
        own = re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", ".".join(parts[start:]))
        while own:
            if own in factors:
                return factors[own]
            own = own.rpartition(".")[0]
    return 1.0
