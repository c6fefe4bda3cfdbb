"""Published weights of a detector of transformers: found in a folder, in the hub's cache, or on the hub."""

import contextlib
import json
import logging
import os
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from loradet.adapters.filled import mark_loaded
from loradet.adapters.layer import is_under
from loradet.backbones.weights import UNREADABLE, why_unreadable
from loradet.detectors.library.families import Family
from loradet.errors import MissingFileError, UserError
from loradet.tensors import check_tensors
from loradet.wording import shorten

logger = logging.getLogger(__name__)

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
# Rows of these are classes, and channels of those are a backbone's.
_CLASSES = re.compile(r"class_embed|enc_score_head")
_PROJECTIONS = re.compile(
    r"model\.(?:encoder_input_proj|conv_encoder\.encoder_input_proj|input_proj|backbone\.projector)\."
)
_FILES = [_CONFIG, _WEIGHTS, "preprocessor_config.json", "README.md"]


@dataclass(frozen=True)
class Published:
    """Files of published weights.

    Attributes:
        folder: with `config.json` and `model.safetensors`.
        name: as it was given.
        config: of `config.json`.
    """

    folder: Path
    name: str
    config: dict[str, Any]

    @classmethod
    def find(cls, weights: str | os.PathLike, family: Family, *, config_alone: bool = False) -> "Published":
        """The files of a folder or a name.

        Args:
            weights: folder, or name on the hub.
            family: that they must be of.
            config_alone: whether `config.json` will do.

        Raises:
            UserError: they are not there, or of another kind of detector; says how to place them by hand.
        """
        name = os.fspath(weights)
        needed = (_CONFIG,) if config_alone else (_CONFIG, _WEIGHTS)
        folder = local_folder(name) or _from_hub(name, needed)
        if missing := _missing(folder, needed):
            more = " A pytorch_model.bin is a pickle, and is not read." if _WEIGHTS in missing else ""
            raise MissingFileError(f"weights={name!r}: {folder} has no {' and no '.join(missing)}.{more}")
        try:
            config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{folder / _CONFIG} is no JSON: {error}") from error
        found = config.get("model_type") if isinstance(config, dict) else None
        if found != family.model_type:
            raise UserError(f"weights={name!r} are of family={found!r}, and the config says {family.model_type!r}.")
        return cls(folder, name, config)

    def stated(self, num_classes: int) -> dict[str, Any]:
        """What the file says of the network, for the library's config; sizes of images are left open."""
        left_out = {"num_labels", "anchor_image_size", "eval_size", "dtype", "torch_dtype"}
        if len(self.config.get("id2label") or ()) != num_classes:
            left_out |= {"id2label", "label2id"}
        return {key: value for key, value in self.config.items() if key not in left_out}

    def load(self, network: nn.Module, *, without: str | None = None) -> list[str]:
        """Load the weights into a network, in place, and log their licence and what was left out.

        Class heads of another number of classes keep their values; all else has to be in the file.

        Args:
            network: built from `stated`.
            without: path of a backbone to load nothing into; layers behind it then keep theirs where channels differ.

        Returns:
            Names of the loaded tensors.

        Raises:
            UserError: the file is damaged, or lacks a tensor; nothing was loaded then.
        """
        path = self.folder / _WEIGHTS
        try:
            with _quietly():
                theirs, info = type(network).from_pretrained(
                    self.folder,
                    config=network.config,
                    local_files_only=True,
                    use_safetensors=True,
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                    dtype=torch.float32,
                )
        except UNREADABLE as error:
            raise UserError(f"{path} {why_unreadable(error)}") from error
        own = network.state_dict()
        replaced = {name for name in own if without is not None and is_under(name, without)}
        other_shape = {key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"]}
        anew = {
            name
            for name in other_shape - replaced
            if _CLASSES.search(name) or (without is not None and _PROJECTIONS.match(name))
        }
        if lacking := sorted((set(info["missing_keys"]) | other_shape) - anew - replaced):
            raise UserError(
                f"{path} does not fit the model: {shorten(lacking, 5)} are absent or of another shape. Options must be "
                "the file's."
            )
        found = theirs.state_dict() | _shared_heads(network, path)
        kept = {name: tensor for name, tensor in found.items() if name not in anew | replaced}
        check_tensors(kept, path, own)
        network.load_state_dict(kept, strict=False)
        mark_loaded(network, kept)
        self._report(len(kept), anew)
        return list(kept)

    def _report(self, count: int, anew: Iterable[str]) -> None:
        logger.info("Loaded %d tensors from %s. Licence: %s.", count, self.folder / _WEIGHTS, self.licence())
        if anew:
            logger.warning("Of another shape in %s, and initialised anew: %s", self.name, shorten(sorted(anew), 10))

    def licence(self) -> str:
        """What the model card beside the weights says of their licence."""
        card = self.folder / "README.md"
        if card.is_file():
            head = re.match(r"---\s*\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
            lines = dict(re.findall(r"^(license(?:_name)?)\s*:\s*(\S+)", head[1] if head else "", re.MULTILINE))
            if found := lines.get("license_name") or lines.get("license"):
                return f"{found} (as their model card says)"
        return "not stated beside them: see their model card, and docs/licences.md"


def _shared_heads(network: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """Box heads of the file under all names that a network has for them.

    A head that decoder layers share (`share_bbox_head` of DEIMv2) is in the file once, and the library (5.24) then
    leaves it fresh without a word.
    """
    own = network.state_dict()
    stored = {name: tensor for name, tensor in load_file(path).items() if "bbox_embed" in name}
    found = {}
    for name, tensor in stored.items():
        if name in own and own[name].shape == tensor.shape:
            aliases = (other for other, held in own.items() if held.data_ptr() == own[name].data_ptr())
            found |= dict.fromkeys(aliases, tensor)
    return found


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """No progress bars and no advice of the library; what it would say is checked here."""
    from transformers.utils import logging as library_logging

    level, bar = library_logging.get_verbosity(), library_logging.is_progress_bar_enabled()
    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    try:
        yield
    finally:
        library_logging.set_verbosity(level)
        if bar:
            library_logging.enable_progress_bar()


def local_folder(weights: str | os.PathLike) -> Path | None:
    """The folder that `weights` names on this machine; None where it is a name on the hub.

    Raises:
        UserError: it is a file.
        MissingFileError: neither.
    """
    name = os.fspath(weights)
    folder = Path(name).expanduser()
    if folder.is_file():
        raise UserError(f"weights={name!r} is a file: give the folder that holds it, with {_CONFIG} beside it.")
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise MissingFileError(f"weights={name!r}: there is no such folder.")
    return None


def published_classes(config: Any, weights: str | os.PathLike | None) -> tuple[str, ...] | None:
    """Names of the classes of a network that was made with published weights, as their file has them.

    Args:
        config: of the network, in the library.
        weights: that were loaded; None: none.
    """
    if weights is None:
        return None
    names = tuple(str(config.id2label[place]) for place in sorted(config.id2label))
    # The library's own, where nobody named them, or there are as many no more.
    return None if names == tuple(f"LABEL_{place}" for place in range(len(names))) else names


def _missing(folder: Path, needed: Iterable[str]) -> list[str]:
    return [file for file in needed if not (folder / file).is_file()]


def _from_hub(name: str, needed: Iterable[str]) -> Path:
    """The folder of a name in the hub's cache, downloaded where it, or a file that is needed, is not there."""
    from huggingface_hub import constants, snapshot_download

    options = {"repo_id": name, "allow_patterns": _FILES}
    try:
        folder = Path(snapshot_download(**options, local_files_only=True))
        # A cache that another program asked for the config alone is no error to the hub's client.
        if not (missing := _missing(folder, needed)):
            return folder
        cause: Exception = FileNotFoundError(f"{folder} has no {' and no '.join(missing)}")
    except Exception as error:
        cause = error
    if not constants.HF_HUB_OFFLINE:
        try:
            _check_reachable(constants.ENDPOINT)
            return Path(snapshot_download(**options))
        except Exception as error:
            cause = error
    reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
    raise MissingFileError(
        f"weights={name!r} cannot be had ({reason}). They were looked for in {constants.HF_HUB_CACHE} and, unless "
        f"HF_HUB_OFFLINE is set (here it is {'set' if constants.HF_HUB_OFFLINE else 'not set'}), at "
        f"{constants.ENDPOINT}/{name}. To place them by hand: put {_CONFIG} and {_WEIGHTS} of that page into a folder "
        "and give weights=FOLDER, or copy the cache's folder from a machine where 'hf download "
        f"{name}' has run."
    )


def _check_reachable(endpoint: str) -> None:
    """Without a network the hub's client tries for most of a minute, aloud; find out in one step."""
    if urllib.request.getproxies():
        return
    address = urllib.parse.urlsplit(endpoint)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname, port), timeout=10).close()
    except OSError as error:
        raise ConnectionError(f"no connection to {endpoint}: {error}") from None
