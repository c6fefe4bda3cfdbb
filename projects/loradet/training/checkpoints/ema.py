"""Exponential moving average of the weights that train."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from loradet.errors import UserError


class ExponentialMovingAverage:
    """Keeps `average = decay * average + (1 - decay) * parameter` of each trainable parameter.

    In the first steps the decay is min(decay, (1 + step) / (10 + step)), so that the start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.restart()

    def restart(self) -> None:
        """Begin anew from the present weights."""
        self.steps = 0
        self._averages = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters of a finished optimizer step in."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averages = list(self._averages.values())
        torch._foreach_lerp_(averages, [self._parameters[name].detach() for name in self._averages], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the averages inside the block, its own weights again afterwards."""
        own = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._fill(self._averages)
        try:
            yield
        finally:
            self._fill(own)

    @torch.no_grad()
    def _fill(self, values: dict[str, torch.Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])

    def state_dict(self) -> dict:
        """Averages by parameter name, and the number of updates."""
        return {"steps": self.steps, "averages": dict(self._averages)}

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        """Counterpart of `state_dict`. Raises ValueError where the trainable parameters are others."""
        if set(state["averages"]) != set(self._averages):
            differing = sorted(set(state["averages"]) ^ set(self._averages))
            raise UserError(f"The checkpoint's EMA is of other trainable parameters; they differ in {differing[:5]}.")
        self.steps = state["steps"]
        for name, value in state["averages"].items():
            self._averages[name].copy_(value)
