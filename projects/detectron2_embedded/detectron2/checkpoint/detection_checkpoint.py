"""Checkpoints of detectors: saved whole or not at all, read in the formats of published backbones."""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import torch
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.checkpoint.safe_load import load_pickle_file, load_torch_file
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager, replace_file
from fvcore.common.checkpoint import Checkpointer, _IncompatibleKeys
from torch import nn

__all__ = ["DetectionCheckpointer"]

# Buffers that older models stored and newer ones build themselves.
_COMPUTED_BUFFERS = ("pixel_mean", "pixel_std", "anchor_generator.cell_anchors")


class DetectionCheckpointer(Checkpointer):
    """fvcore's Checkpointer for detectors.

    `load` takes `.pth` files (a dict with "model", or a bare state dict) and `.pkl` files of numpy arrays. A
    path that ends in `?matching_heuristics=True`, or a file with that key, has its weights matched to the
    model's by the ends of their names, as backbones need. Files are never unpickled freely. Only rank 0
    writes.

    Args:
        model: may be wrapped in DistributedDataParallel.
        save_dir: folder of the checkpoints.
        save_to_disk: whether `save` writes; default: on rank 0.
        checkpointables: further objects with `state_dict` and `load_state_dict`, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ):
        super().__init__(
            model,
            save_dir,
            save_to_disk=comm.is_main_process() if save_to_disk is None else save_to_disk,
            **checkpointables,
        )
        self.path_manager = PathManager
        self._heuristics_asked_for = False

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `<save_dir>/<name>.pth`, in one step, and name it in `last_checkpoint`.

        Args:
            name: file name without extension.
            kwargs: further data to save.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        if Path(name).name != name:
            raise ValueError(f"Checkpoint name {name!r}: a file name without folder is expected.")
        states = {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        path = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        with replace_file(path, "wb") as file:
            torch.save({"model": self.model.state_dict(), **states, **kwargs}, file)
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the file that a resumed run starts from."""
        with replace_file(Path(self.save_dir, "last_checkpoint")) as file:
            file.write(last_filename_basename)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a model, and the checkpointables that the file has.

        Args:
            path: file or URL; "" loads nothing.
            checkpointables: names of those to load; default: all.

        Returns:
            What the file holds beside these.

        Raises:
            AssertionError: there is no such file.
            RuntimeError: the file is cut off.
            pickle.UnpicklingError: the file holds something that would have to be run.
            ValueError: an unknown option behind "?", or a value in the model's weights that is no array.
        """
        path, _, query = (path or "").partition("?")
        self._heuristics_asked_for = _wants_heuristics(query, path)
        return super().load(path, *args, **kwargs)

    def _load_file(self, filename: str) -> dict[str, Any]:
        checkpoint = _read(filename)
        if self._heuristics_asked_for:
            checkpoint["matching_heuristics"] = True
        return checkpoint

    def _load_model(self, checkpoint: dict[str, Any]) -> _IncompatibleKeys:
        if checkpoint.get("matching_heuristics", False):
            self._convert_ndarray_to_tensor(checkpoint["model"])
            is_caffe2 = checkpoint.get("__author__") == "Caffe2"
            weights = align_and_update_state_dicts(self.model.state_dict(), checkpoint["model"], is_caffe2)
            checkpoint["model"] = _with_statistics(self.model.state_dict(), weights) if is_caffe2 else weights
        incompatible = super()._load_model(checkpoint)
        buffers = {name for name, _ in self.model.named_buffers(remove_duplicate=False)}
        missing = [key for key in incompatible.missing_keys if not (key in buffers and _is_computed(key))]
        unexpected = [key for key in incompatible.unexpected_keys if not _is_computed(key)]
        return incompatible._replace(missing_keys=missing, unexpected_keys=unexpected)


def _with_statistics(model_state: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights, with means of 0 and variances of 1 where a batch norm has them folded into scale and bias."""
    added = {}
    for key, value in model_state.items():
        norm, _, name = key.rpartition(".")
        if name in ("running_mean", "running_var") and key not in weights and f"{norm}.weight" in weights:
            added[key] = torch.zeros_like(value) if name == "running_mean" else torch.ones_like(value)
    return {**weights, **added}


def _is_computed(key: str) -> bool:
    return any(f".{name}" in f".{key}" for name in _COMPUTED_BUFFERS)


def _wants_heuristics(query: str, path: str) -> bool:
    options = parse_qs(query, keep_blank_values=True)
    unknown = sorted(set(options) - {"matching_heuristics"})
    if unknown:
        raise ValueError(f"{path}?{query}: unknown option {unknown[0]!r}; only matching_heuristics=True is known.")
    values = options.get("matching_heuristics", ["False"])
    if values not in (["True"], ["False"]):
        raise ValueError(f"{path}?{query}: matching_heuristics is True or False, not {', '.join(values)}.")
    return values == ["True"]


def _read(filename: str) -> dict[str, Any]:
    """Content of a checkpoint file: a dict with "model", perhaps "__author__" and "matching_heuristics"."""
    extension = Path(filename).suffix
    if extension == ".pkl":
        content = load_pickle_file(filename)
        _require_dict(content, filename)
        if "model" in content and "__author__" in content:
            return content
        blobs = content.get("blobs", content)
        weights = {name: blob for name, blob in blobs.items() if not name.endswith("_momentum")}
        return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
    content = load_torch_file(filename)
    _require_dict(content, filename)
    if extension == ".pyth":
        if "model_state" not in content:
            raise ValueError(
                f"{filename}: a .pyth file has a key 'model_state', found: {', '.join(map(str, content))}."
            )
        state = {k: v for k, v in content["model_state"].items() if not k.endswith("num_batches_tracked")}
        return {"model": state, "__author__": "pycls", "matching_heuristics": True}
    return content if "model" in content else {"model": content}


def _require_dict(content: Any, filename: str) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{filename}: a state dict is expected, found {type(content).__name__}.")
