"""LoRA+: a higher learning rate for B than for A (Hayou et al., "LoRA+", arXiv:2402.12354)."""

import functools
from collections.abc import Callable


def lora_plus(*, ratio: float = 16.0) -> Callable[[str], float]:
    """Factors of the learning rate: `ratio` for every `lora_b`, 1 for all else, biases, norms and heads among it.

    In a config: `optimizer.params.base_lr = "${..lr}"`, which the factors apply to, and
    `optimizer.params.lr_factor_func = L(lora_plus)(ratio=16)`.

    Returns:
        Name of a parameter → factor, for `lr_factor_func` of `get_default_optimizer_params`.
    """
    return functools.partial(_lora_plus, ratio=ratio)


def _lora_plus(name: str, ratio: float) -> float:
    return ratio if name.endswith("lora_b") else 1.0
