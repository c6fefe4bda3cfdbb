"""Reads recorded numbers, and compares with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch


def load(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Hyperparameters and arrays of a recorded `.npz`."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files if key != "meta"}
        return json.loads(str(file["meta"])), arrays


def close(actual: Any, expected: Any) -> None:
    """Assert equality at the tolerance of single operations."""
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
