"""Hooks around the training loop; each says at which stage of an event it has its turn."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.training.hooks.evaluation import EvaluateAndKeepBest
    from loradet.training.hooks.interruption import StopOnInterrupt
    from loradet.training.hooks.keep_checkpoints import KeepCheckpoints
    from loradet.training.hooks.log_memory import LogMemory
    from loradet.training.hooks.progress import ProgressBar, WriteMetrics
    from loradet.training.hooks.stages import Stage, at_stage, by_stage
    from loradet.training.hooks.stop_request import StopOnRequest
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "EvaluateAndKeepBest",
    "KeepCheckpoints",
    "LogMemory",
    "ProgressBar",
    "Stage",
    "StopOnInterrupt",
    "StopOnRequest",
    "WriteMetrics",
    "at_stage",
    "by_stage",
]
