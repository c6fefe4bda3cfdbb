"""Checkpoints that are written whole or not at all, and loads that say what did not fit."""

import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import nn

from loradet.adapters import adapter_state, load_adapter_state
from loradet.files import atomic_open

logger = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint is missing, broken, or of another model; the message names the file."""


class AdapterRecipes:
    """Lets a checkpoint carry the recipes and base fingerprints of a model's adapters beside its weights."""

    def __init__(self, model: nn.Module):
        self.model = model

    def state_dict(self) -> dict[str, Any]:
        """Recipes by module path."""
        return adapter_state(self.model)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Counterpart of `state_dict`."""
        load_adapter_state(self.model, state)


class Checkpointer(DetectionCheckpointer):
    """`DetectionCheckpointer` whose files replace older ones only when they are whole on disk."""

    def __init__(self, model: nn.Module, save_dir: str | Path = "", **checkpointables: Any):
        super().__init__(model, str(save_dir), **checkpointables)
        self.checkpointables["adapter_recipes"] = AdapterRecipes(self.model)

    def save(self, name: str, *, only_model: bool = False, **kwargs: Any) -> None:
        """Write `<name>.pth`. Every process must call it: the state of all of them is gathered.

        Args:
            name: file name without its ending.
            only_model: leave trainer state out, and leave `last_checkpoint` pointing where it did.
            **kwargs: plain values to store besides.
        """
        names = ["adapter_recipes"] if only_model else list(self.checkpointables)
        data = {key: self.checkpointables[key].state_dict() for key in names}
        if not self.save_dir or not comm.is_main_process():
            return
        data = {"model": self.model.state_dict(), **data, **kwargs}
        path = Path(self.save_dir) / f"{name}.pth"
        logger.info("Saving checkpoint to %s", path)
        with atomic_open(path, "wb") as file:
            torch.save(data, file)
        if not only_model:
            with atomic_open(Path(self.save_dir) / "last_checkpoint") as file:
                file.write(path.name)

    def load_weights(self, path: str, *, strict: bool) -> dict[str, Any]:
        """Load the model's weights (and adapter recipes) alone; returns what else the file holds.

        Args:
            path: a checkpoint; also the URIs that Detectron2 knows.
            strict: every tensor of the model must be in the file with the same shape. Otherwise at least one must.

        Raises:
            CheckpointError: names the file, and what is missing or of another shape.
        """
        return self._load_checked(path, [], strict)

    def resume(self) -> dict[str, Any] | None:
        """Load everything from the last checkpoint in `save_dir`; None where there is none yet."""
        if not self.has_checkpoint():
            return None
        path = self.get_checkpoint_file()
        return self._load_checked(path, list(self.checkpointables), strict=True)

    def _load_checked(self, path: str, checkpointables: list[str], strict: bool) -> dict[str, Any]:
        names = [*checkpointables, "adapter_recipes"]
        loadable = self.checkpointables
        self.checkpointables = {k: v for k, v in loadable.items() if k in names}
        before = {k: v.shape for k, v in self.model.state_dict().items()}
        report: dict[str, Any] = {}
        self._incompatible_report = report
        try:
            extras = self.load(path, checkpointables=None)
        except (
            pickle.UnpicklingError,
            EOFError,
            zipfile.BadZipFile,
            RuntimeError,
            OSError,
            AssertionError,
        ) as error:
            hint = "the file is missing, cut short, not a checkpoint, or holds more than weights"
            raise CheckpointError(f"Cannot load {path}: {hint} ({type(error).__name__}: {error}).") from error
        finally:
            self.checkpointables = loadable
            del self._incompatible_report
        _check_fit(path, before, report, strict)
        return extras

    def _load_model(self, checkpoint: Any) -> Any:
        incompatible = super()._load_model(checkpoint)
        if incompatible is not None and hasattr(self, "_incompatible_report"):
            self._incompatible_report["missing"] = list(incompatible.missing_keys)
            self._incompatible_report["shapes"] = list(incompatible.incorrect_shapes)
        return incompatible


def _check_fit(path: str, shapes: dict[str, torch.Size], report: dict[str, Any], strict: bool) -> None:
    bad_shapes = {
        name: f"{name} is {tuple(a)} there, {tuple(b)} here" for name, a, b in report.get("shapes", [])
    }
    missing = [name for name in report.get("missing", []) if name in shapes and name not in bad_shapes]
    loaded = len(shapes) - len(missing) - len(bad_shapes)
    if loaded > 0 and not (strict and (missing or bad_shapes)):
        if missing or bad_shapes:
            logger.info("%s: %d of the model's %d tensors loaded.", path, loaded, len(shapes))
        return
    parts = []
    if bad_shapes:
        parts.append(f"{len(bad_shapes)} of another shape ({'; '.join(list(bad_shapes.values())[:3])})")
    if missing:
        parts.append(f"{len(missing)} missing ({', '.join(missing[:5])})")
    raise CheckpointError(
        f"{path} is of another model: of the model's {len(shapes)} tensors {' and '.join(parts)}. "
        "Take the checkpoint that belongs to this config, or the config that it was trained with."
    )


def last_checkpoint_name(folder: str | os.PathLike) -> str | None:
    """File name in `folder/last_checkpoint`, or None."""
    tag = Path(folder) / "last_checkpoint"
    return tag.read_text().strip() if tag.is_file() else None
