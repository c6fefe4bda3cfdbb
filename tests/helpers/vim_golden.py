"""Reads the numbers recorded from the official Vision Mamba code."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loradet.backbones import VisionMamba

ARGUMENTS = (
    *("img_size", "patch_size", "stride", "embed_dim", "depth", "d_state", "if_divide_out", "if_rope"),
    *("if_rope_residual", "pt_hw_seq_len", "norm_epsilon", "drop_path_rate", "last_layer_process"),
)


class Recorded:
    """One file: its `config`, and its arrays by name."""

    def __init__(self, path: Path):
        with np.load(path, allow_pickle=False) as file:
            self.config: Any = json.loads(str(file["config"]))
            self.arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "config"}

    def __getitem__(self, name: str) -> Tensor:
        return self.arrays[name]

    def below(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): x for name, x in self.arrays.items() if name.startswith(prefix)}

    def net(self, other_weights: dict[str, Tensor] | None = None, **changes: Any) -> VisionMamba:
        """The backbone with the recorded arguments and weights, but for those given here."""
        known = {name: value for name, value in self.config["args"].items() if name in ARGUMENTS}
        net = VisionMamba(random_weights=True, **{**known, **changes}).eval()
        weights = self.below("w/") | (other_weights or {})
        unused = {name for name in weights if name.startswith(("norm_f.", "head.")) or name == "cls_token"}
        net.load_state_dict({name: x for name, x in weights.items() if name not in unused})
        return net


def close(actual: Tensor, expected: Tensor) -> None:
    """Assert equality at the tolerance of tokens, blocks, features and states."""
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
