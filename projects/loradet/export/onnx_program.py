"""An ONNX graph that takes and gives torch's tensors."""

import numpy as np
import torch
from torch import Tensor

from loradet.export.onnx_session import OnnxSession


class OnnxProgram:
    """Called as the program that it was made of.

    Args:
        session: runs it.
    """

    def __init__(self, session: OnnxSession):
        self.session = session

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W), and sizes (N, 2) where it takes them, to boxes, scores, classes and counts."""
        return [torch.from_numpy(np.asarray(value)) for value in self.session(*(one.cpu().numpy() for one in inputs))]
