"""Building timm feature networks, with errors that say what to change."""

import difflib
import inspect
import logging
import re
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg, model_entrypoint
from torch import nn

from loradet.adapters.filled import mark_loaded
from loradet.errors import UserError

# Files of timm.models whose networks are faster in channels_last and give the same numbers there.
CHANNELS_LAST_FAMILIES = ("convnext", "efficientnet", "mobilenetv3", "regnet", "resnet")
RESERVED = {
    "features_only": "it is always on here",
    "out_indices": "name the outputs in out_features",
    "feature_cls": "timm's own choice is used",
    "checkpoint_path": "use weights=",
    "pretrained_cfg": "use weights=, or the tag in model_name",
}


class PretrainedWeightsError(UserError, RuntimeError):
    """Published weights cannot be had or do not fit; the message names the model and says what to do."""


def describe(
    model_name: str, kwargs: dict[str, Any], *, out_indices: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """timm's `feature_info`, one entry per feature map, without building the weights.

    The entries are the same for any `out_indices`, but timm's default asks for more maps than a shallow ViT has.

    Raises:
        ValueError: unknown model or tag, or a model that cannot give feature maps.
        TypeError: an argument that the model does not have.
    """
    _check_name(model_name)
    for name, instead in RESERVED.items():
        if name in kwargs:
            raise TypeError(f"TimmBackbone does not take {name}: {instead}.")
    chosen = {} if out_indices is None else {"out_indices": tuple(out_indices)}
    try:
        with torch.device("meta"):
            net = timm.create_model(model_name, pretrained=False, features_only=True, **chosen, **kwargs)
    except TypeError as error:
        raise _explained(error, model_name) from None
    except Exception as error:
        raise UserError(f"timm cannot build {model_name!r} as a feature network: {error}") from error
    return list(net.feature_info.info)


def build(model_name: str, pretrained: bool, indices: Sequence[int], kwargs: dict[str, Any]) -> nn.Module:
    """The feature network with the feature maps `indices`, in ascending order.

    Raises:
        PretrainedWeightsError: `pretrained`, and the weights are neither in the cache nor to be had, or do not fit.
    """
    arguments = {**kwargs, "features_only": True, "out_indices": tuple(indices)}
    if not pretrained:
        return timm.create_model(model_name, pretrained=False, **arguments)
    listener = _MissingKeys()
    log = logging.getLogger("timm.models._builder")
    level = log.level
    log.addHandler(listener)
    log.setLevel(min(log.getEffectiveLevel(), logging.INFO))
    try:
        _check_reachable(model_name, kwargs)
        net = timm.create_model(model_name, pretrained=True, **arguments)
    except Exception as error:
        raise PretrainedWeightsError(_how_to_get_weights(model_name, error, kwargs)) from None
    finally:
        log.removeHandler(listener)
        log.setLevel(level)
    missing = listener.of(net)
    if missing:
        cause = ValueError(f"the file lacks {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}")
        raise PretrainedWeightsError(_how_to_get_weights(model_name, cause, kwargs))
    mark_loaded(net)
    return net


def gains_from_channels_last(model_name: str) -> bool:
    """Whether networks of this family run in channels_last unless told otherwise."""
    architecture = model_name.split(".")[0]
    if not timm.is_model(architecture):
        return False
    return model_entrypoint(architecture).__module__.rpartition(".")[2] in CHANNELS_LAST_FAMILIES


def input_size(net: nn.Module, kwargs: dict[str, Any]) -> tuple[int, int, int]:
    """An input (C, H, W) that the network takes."""
    channels, height, width = net.pretrained_cfg["input_size"]
    size = kwargs.get("img_size") or (height, width)
    height, width = (size, size) if isinstance(size, int) else size
    return kwargs.get("in_chans") or channels, height, width


class _MissingKeys(logging.Handler):
    """Collects parameters that timm reports as absent from a file, which it then leaves random."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        found = re.match(r"Missing keys \((.*)\)", record.getMessage())
        if found:
            self.names += found.group(1).split(", ")

    def of(self, net: nn.Module) -> list[str]:
        """Those that the feature network kept (it drops the classifier)."""
        kept = {re.sub(r"[._]", ".", name.removeprefix("model.").removeprefix("body.")) for name in net.state_dict()}
        return [name for name in self.names if re.sub(r"[._]", ".", name) in kept]


def _check_name(model_name: str) -> None:
    if ":" in model_name:  # hf-hub: and local-dir: are resolved by timm
        return
    architecture = model_name.split(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"near names: {', '.join(near)}" if near else "timm.list_models() lists them"
        raise UserError(f"timm {timm.__version__} has no model {architecture!r}; {hint}.")
    try:
        get_pretrained_cfg(model_name)
    except RuntimeError:
        tags = timm.list_pretrained(f"{architecture}.*")
        raise UserError(
            f"timm {timm.__version__} has no weights {model_name!r}; it has {', '.join(tags) or 'none of this model'}."
        ) from None


def _explained(error: TypeError, model_name: str) -> TypeError:
    """An unexpected argument, with the nearest that exist."""
    found = re.search(r"(?:(\w+)\.__init__|(\w+))\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if not found:
        return error
    owner, argument = found.group(1) or found.group(2), found.group(3)
    architecture = model_name.split(".")[0]
    module = sys.modules[model_entrypoint(architecture).__module__] if timm.is_model(architecture) else timm
    function = getattr(module, owner, None)
    names = list(inspect.signature(function).parameters) if callable(function) else []
    near = difflib.get_close_matches(argument, names, n=3)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    else:
        hint = f"{owner} takes {', '.join(names)}." if names else f"see the arguments of {owner}."
    return TypeError(f"The timm model {model_name!r} has no argument {argument!r}; {hint}")


def _check_reachable(model_name: str, kwargs: dict[str, Any]) -> None:
    """Without a network the hub's client tries for most of a minute, aloud; find out in one step."""
    from huggingface_hub import constants, try_to_load_from_cache

    config = None if ":" in model_name else get_pretrained_cfg(model_name)
    if config is None or not config.hf_hub_id or constants.HF_HUB_OFFLINE or urllib.request.getproxies():
        return
    names = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    cache = kwargs.get("cache_dir")
    if any(isinstance(try_to_load_from_cache(config.hf_hub_id, name, cache_dir=cache), str) for name in names):
        return
    address = urllib.parse.urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname, port), timeout=10).close()
    except OSError as error:
        raise ConnectionError(f"no connection to {constants.ENDPOINT}: {error}") from None


def _how_to_get_weights(model_name: str, error: Exception, kwargs: dict[str, Any]) -> str:
    from huggingface_hub import constants

    config = None if ":" in model_name else get_pretrained_cfg(model_name)
    cause = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    offline = "set" if constants.HF_HUB_OFFLINE else "not set"
    hub = Path(kwargs.get("cache_dir") or constants.HF_HUB_CACHE)
    lines = [f"The pretrained weights of {model_name!r} cannot be loaded ({type(error).__name__}: {cause})."]
    if config is not None and config.hf_hub_id:
        folder = hub / f"models--{config.hf_hub_id.replace('/', '--')}"
        lines += [
            f"They were looked for in {folder} and, unless HF_HUB_OFFLINE is set (here it is {offline}), at "
            f"https://huggingface.co/{config.hf_hub_id}.",
            "To place them by hand: copy that folder from a machine that has it "
            f"('hf download {config.hf_hub_id}' makes it), or download model.safetensors from that page "
            "and give the backbone weights='/path/to/model.safetensors', pretrained=False.",
        ]
    elif config is not None and config.url:
        folder = Path(kwargs.get("cache_dir") or Path(torch.hub.get_dir()) / "checkpoints")
        lines += [
            f"They were looked for in {folder} and at {config.url} (HF_HUB_OFFLINE is {offline}).",
            f"To place them by hand: put {Path(config.url).name} into that folder, or give the backbone "
            "weights='/path/to/the/file', pretrained=False.",
        ]
    elif config is not None:
        tags = timm.list_pretrained(f"{model_name.split('.')[0]}.*")
        lines.append(f"timm publishes none under this name; it has {', '.join(tags) or 'none of this model'}.")
    else:
        lines.append(f"The Hugging Face cache is {hub}; HF_HUB_OFFLINE is {offline}.")
    return "\n".join(lines)
