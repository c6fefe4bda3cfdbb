"""Training, resumed to the digit: the config assembled, the loop, its hooks, what a run leaves behind."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.training.python import evaluate, train
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["evaluate", "train"]
