"""The adapter of a finished run, ready to share."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loradet.adapters.files.adapter_file import AdapterError, read_adapter, write_adapter
from loradet.errors import MissingFileError
from loradet.run_folder import RunFolder
from loradet.wording import shorten

# What the exported file keeps of run.json, where it is there.
_KEPT = ("seed", "config_sha256", "git_revision", "best")


def export_run(folder: str | os.PathLike, output: str | os.PathLike | None = None) -> Path:
    """Write the adapter of a run's best weights, with what the run was in its metadata.

    The run's `adapter.safetensors` is compared with its `model_best.pth`, so neither the config nor the base weights
    are needed. (A run without evaluation has no best weights; its adapter is of the last ones.)

    Args:
        folder: of a run, `work_dirs/<name>`.
        output: file to write; default: `<folder>/export/<name>.safetensors`.

    Returns:
        The file written.

    Raises:
        FileNotFoundError: there is no such folder.
        AdapterError: no run is there, it is not finished, or a file of it is missing, broken or of other weights.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"No run folder at {folder}; a run's folder is its train.output_dir.")
    record = _finished_record(folder)
    name = folder.resolve().name
    run = RunFolder(folder)
    if not run.adapter.is_file():
        raise AdapterError(f"{folder} has no {run.ADAPTER}. {_other_way(folder)}")
    info, tensors = read_adapter(run.adapter)
    if run.best.is_file():
        _check_weights(folder, tensors)
    kept = {key: record[key] for key in _KEPT if record.get(key) is not None}
    info["metadata"] = {**info["metadata"], "run": name, **kept}
    output = folder / "export" / f"{name}.safetensors" if output is None else Path(output)
    write_adapter(output, info, tensors)
    return output


def _finished_record(folder: Path) -> dict[str, Any]:
    run = RunFolder(folder)
    if not run.record.is_file():
        raise AdapterError(f"{folder} holds no run: there is no {run.RECORD}. Name a run's train.output_dir.")
    record = run.read_record()
    if (status := record.get("status")) is None:
        raise AdapterError(f"{run.record} is not a run's record: it has no status.")
    if status != "finished":
        raise AdapterError(
            f"The run in {folder} is not finished (status: {status}). Go on with it by --resume. {_other_way(folder)}"
        )
    return record


def _other_way(folder: Path) -> str:
    return (
        f"To cut an adapter out of one of its checkpoints: loradet adapters export --config-file "
        f"{RunFolder(folder).config} --checkpoint {folder}/model_….pth --output FILE.safetensors"
    )


def _check_weights(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    path = RunFolder(folder).best
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["model"]
        differing = [k for k, v in tensors.items() if k not in state or not torch.equal(state[k], v)]
    except (RuntimeError, OSError, EOFError, LookupError, TypeError, ValueError, pickle.UnpicklingError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise AdapterError(f"{path} cannot be read ({first}); it may be cut short.") from error
    if differing:
        raise AdapterError(
            f"{RunFolder(folder).adapter} is not of the weights in {path.name}; they differ in "
            f"{shorten(differing)}. {_other_way(folder)}"
        )
