"""Checkpoints that are written whole or not at all, and loads that say what did not fit."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from safetensors import safe_open
from torch import nn

from loradet.adapters import adapter_state, load_adapter_state
from loradet.adapters.adapter_file import METADATA_KEY
from loradet.backbones.weights import ASSET, UNREADABLE, refuse_pickle, resolve, why_unreadable
from loradet.errors import UserError
from loradet.files import atomic_open
from loradet.run_folder import RunFolder

logger = logging.getLogger(__name__)


class CheckpointError(UserError):
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

        Raises:
            CheckpointError: the file cannot be written; an older one of that name is left as it was.
        """
        names = ["adapter_recipes"] if only_model else list(self.checkpointables)
        data = {key: self.checkpointables[key].state_dict() for key in names}
        if not self.save_dir or not comm.is_main_process():
            return
        data = {"model": self.model.state_dict(), **data, **kwargs}
        folder = RunFolder(self.save_dir)
        path = folder.path / f"{name}.pth"
        logger.info("Saving checkpoint to %s", path)
        try:
            with atomic_open(path, "wb") as file:
                torch.save(data, file)
            if not only_model:
                with atomic_open(folder.last) as file:
                    file.write(path.name)
        except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
            kept = folder.last_checkpoint()
            raise CheckpointError(
                f"Cannot write {path}: {_first_line(error)}. Is the disk full? The last whole checkpoint is "
                f"{folder.path / kept if kept else 'none'}; make room, then go on from it by --resume."
            ) from error

    def load_weights(self, path: str, *, strict: bool) -> dict[str, Any]:
        """Load the model's weights (and adapter recipes) alone; returns what else the file holds.

        Args:
            path: a checkpoint, `.safetensors` weights, or `asset://NAME`; also the URIs that Detectron2 knows.
            strict: every tensor of the model must be in the file with the same shape. Otherwise at least one must.

        Raises:
            CheckpointError: names the file, and what is missing or of another shape.
        """
        return self._load_checked(str(resolve(path)) if path.startswith(ASSET) else path, [], strict)

    def resume(self) -> dict[str, Any] | None:
        """Load everything from the last checkpoint in `save_dir`; None where there is none yet."""
        folder = RunFolder(self.save_dir)
        name = folder.last_checkpoint()
        if name is None:
            return None
        path = folder.path / name
        try:
            return self._load_checked(str(path), list(self.checkpointables), strict=True)
        except CheckpointError as error:
            others = [p.name for p in folder.checkpoints() if p.name != name]
            hint = f" To go on from an older one, write its name ({', '.join(others)}) into" if others else ""
            raise CheckpointError(f"{error}{hint and f'{hint} {folder.last}.'}") from error

    def _load_checked(self, path: str, checkpointables: list[str], strict: bool) -> dict[str, Any]:
        # Counters of batches come and go with the kind of batch norm, and torch does not miss them in every file.
        self._names = {name for name in self.model.state_dict() if not name.endswith("num_batches_tracked")}
        self._misfits = _Misfits()
        try:
            # The other parts are loaded below, once the weights are known to fit.
            content = self.load(path, checkpointables=[])
        except CheckpointError:
            raise
        except AssertionError as error:
            raise CheckpointError(f"Cannot load {path}: there is no such file.") from error
        except (*UNREADABLE, OSError) as error:
            raise CheckpointError(f"{path} {why_unreadable(error)}") from error
        self._misfits.check(path, len(self._names), strict)
        for name in dict.fromkeys([*checkpointables, "adapter_recipes"]):
            if name in content:
                self._load_part(path, name, content.pop(name))
            elif name in checkpointables:
                raise CheckpointError(
                    f"{path} holds weights, but no {name!r} to resume from. Start from it by train.init_checkpoint."
                )
        return content

    def _load_part(self, path: str, name: str, state: dict[str, Any]) -> None:
        try:
            self.checkpointables[name].load_state_dict(state)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} is of a run with other settings: its {name} does not fit ({_first_line(error)}). Take the "
                "config that it was trained with, or start anew from its weights by train.init_checkpoint."
            ) from error

    def _load_file(self, filename: str) -> Any:
        try:
            refuse_pickle(filename)
        except UserError as error:
            raise CheckpointError(str(error)) from error
        if not filename.endswith(".safetensors"):
            return super()._load_file(filename)
        with safe_open(filename, "pt") as file:
            metadata = file.metadata() or {}
            if METADATA_KEY in metadata:
                raise CheckpointError(f"{filename} is an adapter; tools/adapters.py apply makes a checkpoint of it.")
            # Weights are shipped in half precision.
            content: dict[str, Any] = {"model": {k: file.get_tensor(k).float() for k in file.keys()}}  # noqa: SIM118
        if metadata.get("matching_heuristics") == "True":  # as converted pickles have it
            content["matching_heuristics"] = True
        return content

    def _load_model(self, checkpoint: Any) -> Any:
        incompatible = super()._load_model(checkpoint)
        if incompatible is not None:
            misfits = self._misfits
            misfits.shapes = {name: (tuple(there), tuple(here)) for name, there, here in incompatible.incorrect_shapes}
            misfits.missing = [k for k in incompatible.missing_keys if k in self._names and k not in misfits.shapes]
            misfits.unexpected = list(incompatible.unexpected_keys)
        return incompatible


@dataclass
class _Misfits:
    """How a file's tensors and a model's differ."""

    shapes: dict[str, tuple[tuple, tuple]] = field(default_factory=dict)  # there, here
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def check(self, path: str, total: int, strict: bool) -> None:
        """Raise CheckpointError where nothing fits, or with `strict` where anything differs."""
        loaded = total - len(self.missing) - len(self.shapes)
        differs = self.shapes or self.missing or self.unexpected
        if loaded > 0 and not (strict and differs):
            if differs:
                logger.info("%s: %d of the model's %d tensors loaded.", path, loaded, total)
            return
        shown = [f"{name} is {there} there, {here} here" for name, (there, here) in self.shapes.items()]
        parts = [
            _some(self.missing, "missing in the file"),
            _some(self.unexpected, "not in the model"),
            _some(shown, "of another shape"),
        ]
        raise CheckpointError(
            f"{path} is of another model than the config's, which has {total} tensors: "
            f"{'; '.join(filter(None, parts))}. Take the checkpoint that belongs to this config, or the config that it "
            "was trained with."
        )


def _some(names: list[str], what: str) -> str:
    return f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
