"""Parameter groups: which parameter gets which learning rate and weight decay."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from detectron2._subset import missing_names
from torch import nn

__all__ = ["get_default_optimizer_params", "reduce_param_groups"]

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Groups of a model's trainable parameters, for the first argument of a torch optimizer.

    What is not given is left to the optimizer's own defaults. A parameter that several modules share is taken
    once.

    Args:
        model: its parameters without `requires_grad` are left out.
        base_lr: learning rate.
        weight_decay: of everything that the next arguments do not name.
        weight_decay_norm: of the parameters of torch's normalization layers.
        bias_lr_factor: factor on `base_lr` for parameters named `bias`.
        weight_decay_bias: of parameters named `bias`.
        lr_factor_func: gets a parameter's full name (`block.0.weight`; that of one which the model itself
            holds begins with a dot: `.pos_embed`), gives a factor on `base_lr`.
        overrides: last part of a parameter's name -> group options for it, such as {"pos_embed":
            {"weight_decay": 0}}.

    Returns:
        Groups with distinct options, in the order in which the model has their first parameter.

    Raises:
        ValueError: a factor is given without `base_lr`, or `overrides` has "bias" beside another option for
            biases.
    """
    defaults: dict[str, Any] = {}
    if base_lr is not None:
        defaults["lr"] = base_lr
    if weight_decay is not None:
        defaults["weight_decay"] = weight_decay
    by_name = dict(overrides or {})
    bias = _bias_options(base_lr, bias_lr_factor, weight_decay_bias)
    if bias:
        if "bias" in by_name:
            raise ValueError(
                'overrides has a key "bias", while bias_lr_factor or weight_decay_bias is given too: use one.'
            )
        by_name["bias"] = bias
    if lr_factor_func is not None and base_lr is None:
        raise ValueError("lr_factor_func needs base_lr, the learning rate that its factors apply to.")

    groups: list[dict[str, Any]] = []
    seen = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            options = dict(defaults)
            if weight_decay_norm is not None and isinstance(module, _NORMS):
                options["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                options["lr"] = base_lr * lr_factor_func(f"{prefix}.{name}")
            groups.append({"params": [parameter], **options, **by_name.get(name, {})})
    return reduce_param_groups(groups)


def reduce_param_groups(params: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """As few groups as there are different options, since optimizers take a group's tensors in one go.

    A parameter that several groups hold gets the options of all of them; of two values the later one counts.
    Groups are merged if they have the same options in the same order.

    Args:
        params: groups as a torch optimizer takes them: `params`, perhaps `param_names`, and options.

    Returns:
        New groups, in the order in which the given ones have their first parameter.

    Raises:
        AssertionError: a group has no `params`.
    """
    options: dict[torch.Tensor, dict[str, Any]] = {}
    names: dict[torch.Tensor, str] = {}
    for given in params:
        assert "params" in given, f"A parameter group has a key 'params', but this one only: {', '.join(given)}."
        rest = {key: value for key, value in given.items() if key not in ("params", "param_names")}
        members = list(given["params"])
        for parameter in members:
            options.setdefault(parameter, {}).update(rest)
        names.update(zip(members, given.get("param_names", ())))
    groups: dict[tuple, dict[str, Any]] = {}
    for parameter, own in options.items():
        group = groups.setdefault(tuple(own.items()), {**own, "params": []})
        group["params"].append(parameter)
        if parameter in names:
            group.setdefault("param_names", []).append(names[parameter])
    return list(groups.values())


def _bias_options(
    base_lr: float | None, bias_lr_factor: float | None, weight_decay_bias: float | None
) -> dict[str, float]:
    options: dict[str, float] = {}
    if bias_lr_factor is not None and bias_lr_factor != 1.0:
        if base_lr is None:
            raise ValueError("bias_lr_factor needs base_lr, the learning rate that it applies to.")
        options["lr"] = base_lr * bias_lr_factor
    if weight_decay_bias is not None:
        options["weight_decay"] = weight_decay_bias
    return options


__getattr__ = missing_names(
    __name__, ["GradientClipType", "build_lr_scheduler", "build_optimizer", "maybe_add_gradient_clipping"]
)
