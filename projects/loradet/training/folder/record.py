"""`run.json`: what a run was, on what it ran, what it cost, and how it ended."""

import copy
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import detectron2_embedded
import loradet
from loradet.errors import one_line
from loradet.files import FileError, write_json
from loradet.run_folder import RunFolder

# What reads the records of a thousand runs does without torch, whose import takes longer: functions import it.
if TYPE_CHECKING:
    import torch

# Keys of `train` that change no result: where it is written and reported, how a batch is spread, what is measured or
# let pass. Of `feature_cache` the type may.
_NEUTRAL_KEYS = (
    *("allow_random_frozen", "allow_other_pixel_statistics", "accept_changed_data"),
    *("output_dir", "overwrite", "max_batch_per_gpu", "accumulate", "log_period", "efficiency", "operating_point"),
    *("validation_loss", "validation_pictures", "compile", "feature_cache"),
    *("trackio", "wandb", "hub", "mirror"),
)


# Keys of `data` that say where it lies.
DATA_PLACES = ("root", "data_yaml")


class RunRecord:
    """The contents of `run.json`; from `start` on every change is written at once, by the main process only."""

    def __init__(self, folder: Path):
        self.path = RunFolder(folder).record
        self.values: dict[str, Any] = {}
        self._begin = time.time()

    def start(self, cfg: DictConfig, device: "torch.device", **values: Any) -> None:
        """Begin to write; a resumed run goes on from the wall time of the earlier part in the same folder."""
        from detectron2.utils import comm

        from loradet.config.initial_weights import initial_weights

        if values.get("resumed_at"):
            self._begin -= read(self.path.parent).get("wall_time_s", 0.0)
        self.update(
            status="running",
            seed=cfg.train.seed,
            command=sys.argv,
            git_revision=_git_revision(),
            versions=_versions(),
            device=_device_name(device),
            processes=comm.get_world_size(),
            **initial_weights(cfg),
            **values,
        )

    def update(self, **values: Any) -> None:
        """Set values and write the file."""
        self.values.update(values)
        self.values["wall_time_s"] = round(time.time() - self._begin, 1)
        from detectron2.utils import comm

        if comm.is_main_process():
            write_json(self.path, self.values)


def read(folder: str | os.PathLike) -> dict[str, Any]:
    """The record in a run's folder; empty where there is none.

    Raises:
        ValueError: the file is not JSON; it is named.
    """
    return RunFolder(folder).read_record()


def run_identity(cfg: DictConfig, folder: Path) -> str:
    """`config_hash`; that of the run in the folder where `cfg` is its own `config.yaml`, in which all is resolved."""
    own, identity = RunFolder(folder).config, config_hash(cfg)
    past = read(folder).get("config_sha256")
    if past is None or past == identity or not own.is_file():
        return identity
    return past if config_hash(read_config(folder)) == identity else identity


def read_config(folder: str | os.PathLike) -> DictConfig:
    """The `config.yaml` in a run's folder, as it was written.

    Raises:
        FileError: it is broken, or no config of a run; it is named.
    """
    from detectron2.config import LazyConfig

    from loradet.config.trust import check_trusted

    file = RunFolder(folder).config
    check_trusted(file)  # a folder may be from anybody, and nothing of it is built here
    try:
        cfg = LazyConfig.load(str(file))
    except (*_UNREADABLE, OSError) as error:
        raise FileError(f"{file} is broken: {one_line(error)} {_CONFIG_ADVICE}") from error
    if not OmegaConf.is_dict(cfg) or not OmegaConf.is_dict(cfg.get("train")):
        raise FileError(f"{file} is no config of a run: it has no settings `train`. {_CONFIG_ADVICE}")
    return cfg


_CONFIG_ADVICE = "Put the whole file back, or delete it: it is written anew when the run goes on."
_UNREADABLE = (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError, LookupError, AttributeError, ImportError)


def config_hash(cfg: DictConfig) -> str:
    """sha256 of `config_identity`; taken before durations become iterations."""
    return hashlib.sha256(json.dumps(config_identity(cfg), sort_keys=True).encode()).hexdigest()


def config_identity(cfg: DictConfig, places: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The resolved config as plain values: what a run is.

    Without what changes no result: where it is written and reported, where the data lie (what they are is in the
    record's `data`), which of its splits an evaluator names, how a batch is spread, and whether speed is measured.

    Args:
        places: where to let the data lie, by the keys of `DATA_PLACES`; default: nowhere.
    """
    from loradet.config.splits import name_evaluated_data

    cfg = copy.deepcopy(cfg)
    for key in DATA_PLACES:
        if key in (cfg.get("data") or {}):
            cfg.data[key] = f"<data.{key}>" if places is None else places.get(key)
    if OmegaConf.select(cfg, "dataloader.evaluator") is not None:
        name_evaluated_data(cfg, cfg.dataloader.evaluator, "???")
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    plain["train"] = decisive_settings(plain["train"])
    if "data" in plain:
        plain["data"].pop("num_classes", None)  # what refers to it has it
    return json.loads(json.dumps(plain, default=_name))


def decisive_settings(train: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a plain `train` without those that change no result."""
    found = {key: value for key, value in train.items() if key not in _NEUTRAL_KEYS}
    cache = train.get("feature_cache")
    if isinstance(cache, Mapping) and cache.get("enabled") and cache.get("dtype"):  # features are rounded
        found["feature_cache"] = {"dtype": cache["dtype"]}
    return found


def _name(value: Any) -> str:
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return f"{module}.{name}" if name else repr(value)


def _git_revision() -> str | None:
    """Revision of the source tree, with "+changes" where files differ; None for an installed copy."""
    root = Path(loradet.__file__).resolve().parent
    try:
        revision = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _versions() -> dict[str, str | None]:
    import cv2
    import omegaconf
    import PIL
    import timm
    import torch
    import torchvision

    return {
        "loradet": loradet.__version__,
        "detectron2": detectron2_embedded.describe().label,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda,
        "timm": timm.__version__,
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
        "omegaconf": omegaconf.__version__,
    }


def _device_name(device: "torch.device") -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
