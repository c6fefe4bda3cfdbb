"""Checkpoints that are written whole or not at all, and loads that say what did not fit."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from safetensors import safe_open
from torch import nn

from loradet.adapters import adapter_state, load_adapter_state
from loradet.adapters.files.adapter_file import METADATA_KEY, AdapterError, read_fitting_adapter
from loradet.adapters.filled import loaded_tensors, mark_loaded
from loradet.adapters.layer import adapter_tensor_names
from loradet.adapters.parameters import PARTS, part_of
from loradet.backbones.weights import ASSET, UNREADABLE, check_not_pickle, resolve, why_unreadable
from loradet.class_rows import class_rows, keep_rows_by_name
from loradet.datasets.images.intensity import Intensity
from loradet.errors import MissingFileError, UserError
from loradet.files import WriteError, atomic_open, parse_json
from loradet.remote import is_url, local_copy, split_heuristics
from loradet.run_folder import RunFolder
from loradet.tensors import check_tensors
from loradet.weight_classes import INTENSITY_KEY as INTENSITY
from loradet.weight_classes import KEY as CLASSES
from loradet.weight_classes import WeightClasses
from loradet.wording import shorten

logger = logging.getLogger(__name__)

_UNNAMED = "the file does not name its classes, so rows of the head that fit are taken as they come"


class CheckpointError(UserError):
    """A checkpoint is missing, broken, or of another model; the message names the file."""


def check_is_there(checkpoint: str | os.PathLike) -> None:
    """Raise FileNotFoundError where a checkpoint or an adapter is no file; a URL is not asked for."""
    text = os.fspath(checkpoint)
    if "://" not in text and not Path(text).is_file():
        raise MissingFileError(f"Checkpoint {text} does not exist.")


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
    """`DetectionCheckpointer` whose files replace older ones only when they are whole on disk.

    Args:
        model: may be wrapped in DistributedDataParallel.
        save_dir: folder of the checkpoints.
        classes: what the model finds; saved with its weights, and compared where weights are taken from a file that
            names its classes too.
        intensity: the rule that the training images are read by; saved with the weights.
        **checkpointables: further objects with `state_dict` and `load_state_dict`, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str | Path = "",
        *,
        classes: WeightClasses | None = None,
        intensity: Intensity | None = None,
        **checkpointables: Any,
    ):
        super().__init__(model, str(save_dir), **checkpointables)
        self.checkpointables["adapter_recipes"] = AdapterRecipes(self.model)
        self.classes = classes
        self.intensity = intensity

    def save(self, name: str, *, only_model: bool = False, **kwargs: Any) -> None:
        """Write `<name>.pth`. Every process must call it: the state of all of them is gathered.

        Args:
            name: file name without its ending.
            only_model: leave trainer state out, and leave `last_checkpoint` pointing where it did.
            **kwargs: plain values to store besides.

        Raises:
            CheckpointError: the file cannot be written, or a trained weight is not finite, so that nobody could load
                it; an older one of that name is left as it was.
        """
        self._refuse_ruined(name)
        names = ["adapter_recipes"] if only_model else list(self.checkpointables)
        data = {key: self.checkpointables[key].state_dict() for key in names}
        if not self.save_dir or not comm.is_main_process():
            return
        classes = {} if self.classes is None else {CLASSES: self.classes.to_dict()}
        rule = {} if self.intensity is None else {INTENSITY: self.intensity.to_value()}
        data = {"model": self.model.state_dict(), **classes, **rule, **data, **kwargs}
        folder = RunFolder(self.save_dir)
        path = folder.path / f"{name}.pth"
        logger.info("Saving checkpoint to %s", path)
        try:
            with atomic_open(path, "wb") as file:
                torch.save(data, file)
            if not only_model:
                with atomic_open(folder.last) as file:
                    file.write(path.name)
        except WriteError as error:
            kept = folder.last_checkpoint()
            state = f"{folder.path / kept} is whole: --resume goes on from it" if kept else "There is no earlier one"
            raise CheckpointError(f"{error} {state}.") from error

    def _refuse_ruined(self, name: str) -> None:
        """Raise for trained weights that the last step has made NaN or infinite; no loss tells it before the next one.

        All processes hold the same weights, so all of them raise.
        """
        trained = ((name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad)
        bad = [name for name, parameter in trained if not bool(torch.isfinite(parameter).all())]
        if not bad:
            return
        kept = RunFolder(self.save_dir).last_checkpoint() if self.save_dir else None
        raise CheckpointError(
            f"{name}.pth is not written: the training has diverged, weights are not finite ({shorten(bad)}). Last good "
            f"checkpoint: {RunFolder(self.save_dir).path / kept if kept else 'none was written yet'}. A lower learning "
            "rate, a longer warm-up, train.clip_grad.max_norm=1.0 or train.amp.dtype=bf16 may help."
        )

    def load_weights(self, path: str, *, strict: bool) -> dict[str, Any]:
        """Load the model's weights (and adapter recipes) alone; returns what else the file holds.

        Args:
            path: a checkpoint, `.safetensors` weights, `asset://NAME`, or a URL (`loradet.remote`); also the URIs that
                Detectron2 knows. An adapter only without `strict`: base and recipe must be the model's, classes may
                differ.
            strict: every tensor of the model must be in the file with the same shape. Otherwise at least one must, and
                where file and model name their classes, the head keeps the rows of those that both have.

        Raises:
            CheckpointError: names the file, and what is missing, of another shape or no finite number.
            AdapterError: the adapter is of another base or recipe.
        """
        if is_url(path):
            url, heuristics = split_heuristics(path)
            path = f"{local_copy(url)}{heuristics}"
        elif path.startswith(ASSET):
            path = str(resolve(path))
        return self._load_checked(path, [], strict)

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
        self._source, self._by_name = path, not strict
        self._rows = ""
        try:
            # The other parts are loaded below, once the weights are known to fit.
            content = self.load(path, checkpointables=[])
        except (CheckpointError, AdapterError):
            raise
        except AssertionError as error:
            raise CheckpointError(f"Cannot load {path}: there is no such file.") from error
        except (*UNREADABLE, OSError) as error:
            raise CheckpointError(f"{path} {why_unreadable(error)}") from error
        self._misfits.check(path, len(self._names), strict)
        self._note_loaded(path)
        for name in dict.fromkeys([*checkpointables, "adapter_recipes"]):
            if name in content:
                self._load_part(path, name, content.pop(name))
            elif name in checkpointables:
                raise CheckpointError(
                    f"{path} holds weights, but no {name!r} to resume from. Start from it by train.init_checkpoint."
                )
        return content

    def _note_loaded(self, path: str) -> None:
        """Mark what the file filled, and say by part how much that is."""
        absent = {*self._misfits.missing, *self._misfits.shapes}
        filled = loaded_tensors(self.model)
        mark_loaded(self.model, [name for name in self.model.state_dict() if name not in absent])
        parts: dict[str, list[str]] = {part: [] for part in PARTS}
        for name in self._names:
            parts[part_of(self.model, name)].append(name)
        shown = [self._describe_part(part, names, absent, filled) for part, names in parts.items() if names]
        # Heads of other classes begin anew; what else differs in shape is a surprise.
        of_classes = {rows.name for rows in class_rows(self.model)} & self._misfits.shapes.keys()
        others = self._misfits.shapes.keys() - of_classes
        notes = [self._rows] if self._rows and not (of_classes and self._rows == _UNNAMED) else []
        if of_classes:
            notes.append(f"for another number of classes, so left at the start: {shorten(sorted(of_classes))}")
        if others:
            notes.append(f"of another shape, so left at the start: {shorten(sorted(others))}")
        if self._misfits.unexpected:
            notes.append(f"{len(self._misfits.unexpected)} tensors of the file have no place in the model")
        level = logging.WARNING if others else logging.INFO
        logger.log(level, "Loaded from %s: %s%s.", path, ", ".join(shown), "".join(f"; {note}" for note in notes))

    def _describe_part(self, part: str, names: list[str], absent: set[str], filled: set[str]) -> str:
        loaded = sum(name not in absent for name in names)
        kept = not loaded and filled.issuperset({*names} - adapter_tensor_names(self.model))
        return f"{part} {loaded} of {len(names)}{' (it keeps the weights that it has)' * kept}"

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
            check_not_pickle(filename)
        except UserError as error:
            raise CheckpointError(str(error)) from error
        if not filename.endswith(".safetensors"):
            return super()._load_file(filename)
        with safe_open(filename, "pt") as file:
            metadata = file.metadata() or {}
            if METADATA_KEY in metadata and self._by_name:
                return self._adapter(filename)
            if METADATA_KEY in metadata:
                raise CheckpointError(f"{filename} is an adapter; loradet adapters apply makes a checkpoint of it.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        # Weights are shipped in half precision.
        content: dict[str, Any] = {"model": {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}}
        if CLASSES in metadata:
            content[CLASSES] = parse_json(metadata[CLASSES], f"{filename}: {CLASSES}")
        if metadata.get("matching_heuristics") == "True":  # as converted pickles have it
            content["matching_heuristics"] = True
        return content

    def _adapter(self, filename: str) -> dict[str, Any]:
        """What an adapter file holds, as a checkpoint to start from; it fits the model but for its classes."""
        info, tensors = read_fitting_adapter(self.model, filename, [rows.name for rows in class_rows(self.model)])
        content = {"model": tensors, "adapter_recipes": info["recipes"]}
        if info["classes"]:
            content[CLASSES] = {"names": info["classes"], "ids": info["class_ids"]}
        return content

    def _load_model(self, checkpoint: Any) -> Any:
        state = checkpoint.get("model")
        if isinstance(state, dict):
            self._check_state(state, bool(checkpoint.get("matching_heuristics")))
            if self._by_name:
                checkpoint["model"] = state | self._rows_by_name(state, checkpoint.get(CLASSES))
        incompatible = super()._load_model(checkpoint)
        if incompatible is not None:
            misfits = self._misfits
            misfits.shapes = {name: (tuple(there), tuple(here)) for name, there, here in incompatible.incorrect_shapes}
            misfits.missing = [k for k in incompatible.missing_keys if k in self._names and k not in misfits.shapes]
            misfits.unexpected = list(incompatible.unexpected_keys)
        return incompatible

    def _check_state(self, state: dict[str, Any], renamed_later: bool) -> None:
        prefix = "module." if all(str(name).startswith("module.") for name in state) else ""  # of a DDP wrapper
        named = {str(name).removeprefix(prefix): value for name, value in state.items()}
        own = None if renamed_later else self.model.state_dict()
        check_tensors(named, self._source, own, error=CheckpointError)

    def _rows_by_name(self, state: dict[str, Any], classes: Any) -> dict[str, torch.Tensor]:
        """Rows of the head, where the file names other classes than the model has, or the same in another order."""
        there = WeightClasses.parse(classes, self._source)
        if self.classes is None or there == self.classes:
            return {}
        if there is None:
            if any(rows.name in state for rows in class_rows(self.model)):
                self._rows = _UNNAMED
            return {}
        if there.names == self.classes.names:
            return {}
        both = [name for name in self.classes.names if name in there.names]
        kept = keep_rows_by_name(self.model, state, there.names, self.classes.names)
        if kept:
            new = [name for name in self.classes.names if name not in both]
            self._rows = f"rows of the head by class name: {', '.join(both) or 'none'} kept"
            self._rows += f", {', '.join(new)} new" if new else ""
        return kept

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """Nothing: one line for each tensor would hide all others; `_note_loaded` counts them by part."""


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
