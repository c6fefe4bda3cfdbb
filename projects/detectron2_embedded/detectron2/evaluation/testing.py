"""Results of evaluation: printing and flattening."""

import logging
from collections.abc import Mapping
from typing import Any

from detectron2._subset import missing_names

logger = logging.getLogger(__name__)


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log the main metrics of each task as comma-separated lines, to paste into a spreadsheet.

    Args:
        results: such as {"bbox": {"AP": 40.1}}; metrics with a "-" in their name (of one class) are left out.
    """
    for task, metrics in results.items():
        if isinstance(metrics, Mapping):
            main = {name: value for name, value in metrics.items() if "-" not in name}
            logger.info("copypaste: Task: %s", task)
            logger.info("copypaste: %s", ",".join(main))
            logger.info("copypaste: %s", ",".join(f"{value:.4f}" for value in main.values()))
        else:
            logger.info("copypaste: %s=%s", task, metrics)


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """Nested results as one level: {"bbox": {"AP": 1.0}} gives {"bbox/AP": 1.0}."""
    flat = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}/{name}": inner for name, inner in flatten_results_dict(value).items()})
        else:
            flat[key] = value
    return flat


__getattr__ = missing_names(__name__, ["verify_results"])
