"""Adapters to the Hugging Face Hub and back, with a model card."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.sharing.pull import pull_adapter
    from loradet.sharing.push import push_adapter
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["pull_adapter", "push_adapter"]
