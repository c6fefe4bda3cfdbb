"""Compares and measures runs."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.experiments.pages.compare_runs import comparison
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["comparison"]
