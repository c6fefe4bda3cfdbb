"""Trainings inside Ray Train (`pip install -e '.[ray]'`)."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.ray.torch_trainer import trainer
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["trainer"]
