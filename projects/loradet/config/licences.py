"""Licences of the weights that a config's training starts from, as far as they are known."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from omegaconf import DictConfig, OmegaConf
from timm.models import get_pretrained_cfg

from loradet.backbones.weights import ASSET
from loradet.config.calls import calls_of
from loradet.config.description import is_library_detector

logger = logging.getLogger(__name__)

KEY = "base_licences"  # in the metadata of adapter files
# Names as timm and the Hub have them, of licences that ask for little more than to be named.
OPEN = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc0-1.0", "isc")
# What is known of others: a name for people, what they ask for, and where they are.
_KNOWN = {
    "dinov3-license": (
        "DINOv3 License",
        "Meta's own: its terms and its forbidden uses go on with what is made of the weights",
        "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
    ),
    "fair-noncommercial-research-license": ("FAIR Noncommercial Research License", "no commercial use", ""),
    "cc-by-nc-4.0": (
        "CC BY-NC 4.0",
        "no commercial use",
        "https://creativecommons.org/licenses/by-nc/4.0/",
    ),
}


@dataclass(frozen=True)
class BaseLicence:
    """The licence of some weights.

    Attributes:
        base: what they are: timm's name of a network, or the name of a file.
        licence: as timm writes it, "dinov3-license"; None where it is not known.
    """

    base: str
    licence: str | None

    @property
    def is_open(self) -> bool:
        """Whether the licence is known to be an open one."""
        return self.licence in OPEN

    @property
    def name(self) -> str:
        """For people: "DINOv3 License"."""
        return _KNOWN.get(self.licence or "", (self.licence or "unknown", "", ""))[0]

    @property
    def terms(self) -> str:
        """What it asks for, in a few words; "" where that is not known here."""
        return _KNOWN.get(self.licence or "", ("", "", ""))[1]

    @property
    def link(self) -> str:
        """Where the text is, or the page of the weights; "" where neither is known."""
        page = hub_name(self.base)
        return _KNOWN.get(self.licence or "", ("", "", ""))[2] or (f"https://huggingface.co/{page}" if page else "")

    def to_dict(self) -> dict[str, str | None]:
        """For JSON."""
        return {"base": self.base, "licence": self.licence}


def base_licences(cfg: DictConfig) -> list[BaseLicence]:
    """Of all weights that a config's training starts from, each once; none of random weights.

    A file stands for the network that it is loaded into: where `model_name` names published weights by their tag, their
    licence is taken for the file's, since it holds them or was made of them.

    Args:
        cfg: with `model`, and `train.init_checkpoint` where there is one.
    """
    start = OmegaConf.select(cfg, "train.init_checkpoint")
    found = [one for _, node in calls_of(cfg.get("model")) if (one := _of_node(node, start)) is not None]
    if start:
        found.append(of_file(start))
    return list(dict.fromkeys(found))


def licence_metadata(cfg: DictConfig) -> dict[str, list[dict[str, str | None]]]:
    """`base_licences` for the metadata of an adapter file; {} where there are no weights to tell of."""
    found = [one.to_dict() for one in base_licences(cfg)]
    return {KEY: found} if found else {}


def read_licences(metadata: Mapping[str, Any]) -> list[BaseLicence]:
    """Those in the metadata of an adapter file; empty for files of before, or where another hand has written them."""
    found = metadata.get(KEY)
    entries = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    pairs = [(one.get("base"), one.get("licence")) for one in entries]
    return [BaseLicence(b, n) for b, n in pairs if isinstance(b, str) and (n is None or isinstance(n, str))]


def warn_of_licences(cfg: DictConfig) -> None:
    """Log a line for each base whose licence is known and is no open one."""
    for one in base_licences(cfg):
        if one.licence not in (None, "unknown", *OPEN):
            terms, link = (f" ({one.terms})" if one.terms else ""), (f": {one.link}" if one.link else "")
            logger.warning(
                "Licence of %s: %s, which is not an open one%s. What is trained on it follows its terms%s",
                *(one.base, one.name, terms, link),
            )


def of_name(model_name: str) -> str | None:
    """The licence that timm records of the published weights that a name stands for."""
    known = _timm_config(model_name)
    return (known and known.license) or None


def hub_name(model_name: str) -> str | None:
    """The Hub's repository of timm's weights, "timm/resnet50.a1_in1k"; None where there is none."""
    known = _timm_config(model_name)
    return (known and known.hf_hub_id) or None


def of_file(path: str) -> BaseLicence:
    """Of a file of weights: what ships with loradet is Apache-2.0, of others nothing is known."""
    path = str(path)
    name = PurePath(path.removeprefix(ASSET).partition("?")[0]).name
    return BaseLicence(name, "apache-2.0" if path.startswith(ASSET) else None)


def _timm_config(model_name: str) -> Any:
    # "hf-hub:timm/…" is the same; of other repositories timm knows nothing.
    name = model_name.rpartition("/")[2] if model_name.startswith("hf-hub:timm/") else model_name
    if ":" in name or "/" in name:
        return None
    try:
        return get_pretrained_cfg(name)
    except RuntimeError:  # no such tag
        return None


def _of_node(node: DictConfig, start: str | None) -> BaseLicence | None:
    name, weights = node.get("model_name"), node.get("weights")
    weights = weights if isinstance(weights, str) else None
    if is_library_detector(node):
        return of_file(weights) if weights else None
    if not isinstance(name, str):
        return None
    if node.get("pretrained"):
        return BaseLicence(name.rpartition(":")[2].removeprefix("timm/"), of_name(name))
    source = weights or start
    if not source:
        return None
    if not source.startswith(ASSET) and ("." in name or of_name(name) not in (None, "unknown", *OPEN)):
        return BaseLicence(name, of_name(name))
    return of_file(weights) if weights else None
