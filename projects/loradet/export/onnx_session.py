"""Runs an ONNX graph by onnxruntime, without torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loradet.errors import UserError

OUTPUTS = ("boxes", "scores", "classes", "counts")


class OnnxSession:
    """Called with arrays, returns arrays.

    Attributes:
        inputs: names of what it takes.
    """

    def __init__(self, source: str | Path | bytes, *, device: str = "cpu", threads: int = 0):
        """
        Args:
            source: path of a file, or its content.
            device: "cpu", "cuda", "cuda:1"; "auto" is CUDA where onnxruntime has it.
            threads: of one operator; 0: as many as there are cores.

        Raises:
            UserError: onnxruntime is not installed, has no such device, or cannot read the file.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(
                "ONNX files are run by the package onnxruntime, which is not installed: pip install 'loradet[onnx]' "
                "brings it."
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # what is raised says it
        providers = _providers(device, onnxruntime.get_available_providers())
        content = source if isinstance(source, bytes) else str(source)
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=providers)
        except Exception as error:  # its classes are those of a compiled module
            name = "The graph" if isinstance(source, bytes) else source
            raise UserError(
                f"{name} cannot be loaded by onnxruntime {onnxruntime.__version__}: {_first(error)}"
            ) from error
        self.inputs = tuple(one.name for one in self._session.get_inputs())

    def __call__(self, images: np.ndarray, sizes: np.ndarray | None = None) -> list[np.ndarray]:
        """
        Args:
            images: (N, 3, H, W) float32 RGB in 0..255.
            sizes: (N, 2) int64, height and width of each image in the batch; needed where `inputs` has them.

        Returns:
            Boxes (N, D, 4), scores (N, D), classes (N, D), counts (N,).

        Raises:
            UserError: onnxruntime cannot run it.
        """
        feed = {"images": images} | ({"sizes": sizes} if "sizes" in self.inputs else {})
        try:
            return self._session.run(list(OUTPUTS), feed)
        except Exception as error:
            raise UserError(f"onnxruntime cannot run the model on {images.shape}: {_first(error)}") from error


def _providers(device: str, available: Sequence[str]) -> list[Any]:
    name, _, index = device.partition(":")
    has_cuda = "CUDAExecutionProvider" in available
    if name == "cpu" or (name == "auto" and not has_cuda):
        return ["CPUExecutionProvider"]
    if name not in ("auto", "cuda") or not has_cuda:
        raise UserError(
            f"--device {device}: the installed onnxruntime has {', '.join(available)}; use cpu"
            f"{'' if has_cuda else ', or install onnxruntime-gpu'}."
        )
    return [("CUDAExecutionProvider", {"device_id": int(index or 0)}), "CPUExecutionProvider"]


def _first(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
