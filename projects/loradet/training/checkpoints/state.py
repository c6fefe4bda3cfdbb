"""State of a resumed run besides weights and optimizer, as plain types that load with `weights_only=True`."""

import logging
import random
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

logger = logging.getLogger(__name__)


class RankState:
    """Random generators and loss normalizers of one process.

    RetinaNet keeps a running number of positive anchors per process as a plain attribute, so it is in no state dict.
    """

    def __init__(self, state: dict[str, Any] | None = None):
        self._state = state

    @classmethod
    def of(cls, model: nn.Module) -> "RankState":
        """The state of this process now."""
        kind, keys, position, has_gauss, gauss = np.random.get_state()
        version, internal, gauss_next = random.getstate()
        return cls(
            {
                "torch": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
                "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
                "python": [version, list(internal), gauss_next],
                "loss_normalizers": _loss_normalizers(model),
            }
        )

    @classmethod
    def pick(cls, states: list[dict[str, Any]]) -> "RankState":
        """This process's own out of all processes' states."""
        if len(states) != comm.get_world_size():
            logger.warning(
                "The checkpoint is of %d processes, this run has %d: random states begin anew, and every process "
                "takes the loss normalizer of the first.",
                len(states),
                comm.get_world_size(),
            )
            return cls({"loss_normalizers": states[0]["loss_normalizers"]})
        return cls(states[comm.get_rank()])

    def state_dict(self) -> dict[str, Any]:
        """The state as plain types and tensors."""
        return self._state or {}

    def restore(self, model: nn.Module) -> None:
        """Put the state back. Without one (a fresh run) nothing happens."""
        if not self._state:
            return
        modules = dict(model.named_modules())
        for name, value in self._state["loss_normalizers"].items():
            modules[name].loss_normalizer = value
        if "torch" not in self._state:
            return
        torch.set_rng_state(self._state["torch"].cpu())
        if self._state["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(self._state["cuda"].cpu())
        kind, keys, position, has_gauss, gauss = self._state["numpy"]
        np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), position, has_gauss, gauss))
        version, internal, gauss_next = self._state["python"]
        random.setstate((version, tuple(internal), gauss_next))


def _loss_normalizers(model: nn.Module) -> dict[str, float]:
    found = {name: getattr(module, "loss_normalizer", None) for name, module in model.named_modules()}
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float | torch.Tensor)}


class History:
    """The last values of the smoothed scalars, so that the first medians after a resume are those of one long run."""

    WINDOW = 20  # iterations, that of Detectron2's writers

    def __init__(self, scalars: dict[str, list[list[float]]] | None = None):
        self._scalars = scalars or {}

    @classmethod
    def of(cls, storage: EventStorage) -> "History":
        """The last values in a storage."""
        smoothed = {name for name, hint in storage.smoothing_hints().items() if hint}
        return cls(
            {
                # By iteration, not by count: a model may put a value in each micro-batch.
                name: [[float(v), int(i)] for v, i in buffer.values() if i > storage.iter - cls.WINDOW]
                for name, buffer in storage.histories().items()
                if name in smoothed
            }
        )

    def restore(self, storage: EventStorage) -> None:
        """Put the values into a fresh storage, at their own iterations."""
        for name, values in self._scalars.items():
            for value, iteration in values:
                storage.iter = iteration
                storage.put_scalar(name, value)

    def state_dict(self) -> dict[str, list[list[float]]]:
        """Name → list of [value, iteration]."""
        return self._scalars
