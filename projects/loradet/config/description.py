"""What a model's config says of the model, read off its calls: nothing is built, and no weights are needed."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from loradet.errors import UserError, one_line

RANDOM = "random"
# Modules that DETR makes itself: they have no key in its config, as RetinaNet's `head` has.
_HEADS = ("class_embed", "bbox_embed", "query_embed", "input_proj")
_HEADS_OF_RCNN = {"StandardROIHeads": "Faster R-CNN", "CascadeROIHeads": "Cascade R-CNN"}
# By `family` of a TransformersDetector.
_FAMILIES = {
    "d_fine": "D-FINE",
    "rt_detr_v2": "RT-DETRv2",
    "deimv2": "DEIMv2",
    "deformable_detr": "Deformable DETR",
    "rf_detr": "RF-DETR",
    "lw_detr": "LW-DETR",
}
_VIM_WIDTHS = {192: "Tiny", 384: "Small", 768: "Base"}
_KINDS = {"kind:norm": "norms", "kind:bias": "biases"}
_BLOCK_ADAPTERS = {"mona": "Mona", "adaptformer": "AdaptFormer"}
_VARIANTS = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "pissa": "PiSSA", **_BLOCK_ADAPTERS}
_SIZES = {"tiny": "T", "small": "S", "base": "B", "large": "L", "huge": "H"}


@dataclass(frozen=True)
class LoraCall:
    """One `lora`, `mona` or `adaptformer` of a config; None: left open. Targets are empty for all blocks."""

    targets: tuple[str, ...]
    rank: int | None
    alpha: float | None
    freeze_base: bool
    variant: str = "lora"


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is trained of which detector, and from which weights.

    Attributes:
        detector: as "RetinaNet", "Faster R-CNN", "DETR", else the name of what is called.
        neck: as "FPN"; empty where the backbone has none.
        backbone: in words, as "ConvNeXt-S" or "DINOv3 ViT-L/16"; else timm's name, or that of what is called; empty
            for a detector that names no backbone.
        weights: of the backbone: a file as the config names it, "<timm's name>, pretrained", or "random".
        method: "full", "linear probe" (all of the backbone is frozen), "partly unfrozen", or "LoRA", with what is
            unfrozen beside it as "LoRA + whole stage 3"; variants by their names, as "DoRA", "Mona"; "norms", "biases".
        loras: the calls of `lora`, `mona` and `adaptformer`, the outer ones first.
        unfrozen: names in the `unfreeze` of what holds the backbone, but those of the detector's own heads.
    """

    detector: str
    neck: str = ""
    backbone: str = ""
    weights: str = RANDOM
    method: str
    loras: tuple[LoraCall, ...] = ()
    unfrozen: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """As "ConvNeXt-S + FPN + RetinaNet"."""
        return " + ".join(filter(None, (self.backbone, self.neck, self.detector)))

    @property
    def targets(self) -> tuple[str, ...]:
        """What LoRA wraps, of all calls."""
        return tuple(dict.fromkeys(name for call in self.loras for name in call.targets))

    @property
    def rank(self) -> int | None:
        """Of LoRA; None where there is none, or several of different ranks."""
        return _common([call.rank for call in self.loras])

    @property
    def alpha(self) -> float | None:
        """Of LoRA; None where there is none, or several of different alphas."""
        return _common([call.alpha for call in self.loras])


def describe(model: DictConfig) -> Description:
    """Read method, LoRA, unfrozen parts, backbone and weights off a model's config, as `cfg.model`.

        description = describe(load_config("configs/quickstart.py", []).model)
        description.method, description.rank, description.weights

    Args:
        model: inside its config, where it refers to other parts of it.

    Raises:
        UserError: it is no call, or refers to something that is not there; the key is named.
    """
    if not _is_call(model):
        raise UserError(f"model is {model!r}: expected a call, as L(RetinaNet)(…).")
    chain = list(_chain(model))
    at = _detector_at(chain)
    detector, inside = chain[at], chain[at + 1 :]
    everything = list(_calls(model, set()))
    loras = tuple(map(_lora_call, filter(_is_lora, everything)))
    frozen = any(map(_is_freeze, chain))
    unfrozen = (
        *(name for name in _unfrozen(chain[:at]) if name.partition(".")[0] not in {*_HEADS, *detector} - {"backbone"}),
        *_unfrozen(inside),
    )
    partial = bool(unfrozen) or (not frozen and any(map(_is_freeze, everything)))
    return Description(
        detector=_detector(detector),
        neck=" + ".join(_neck(node) for node in inside[:-1] if not _is_adaptation(node)),
        backbone=_backbone(inside[-1]) if inside else "",
        weights=_weights(chain[-1]),
        method=_method(loras, unfrozen, frozen=frozen, partial=partial),
        loras=loras,
        unfrozen=unfrozen,
    )


def target_name(target: Any) -> str:
    """The dotted path of a `_target_`, which is a callable or such a path itself."""
    if isinstance(target, str):
        return target
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', target)}".lstrip(".")


def joined(names: Sequence[str]) -> str:
    """Names in a few words: "mlp.fc1+fc2" for mlp.fc1 and mlp.fc2."""
    if not names:
        return ""
    prefix = names[0].rpartition(".")[0] + "."
    return "+".join([names[0], *(name.removeprefix(prefix) for name in names[1:])])


def _chain(node: DictConfig) -> Iterator[DictConfig]:
    """The calls from a model down to its network, each of which holds the next one."""
    while True:
        yield node
        # What takes weights is the network itself, whatever it holds besides.
        keys = ("backbone", "module") if "weights" in node or "pretrained" in node else _HOLDERS
        held = (_value(node, key) for key in keys if key in node)
        inner = next(filter(_is_call, held), None)
        if inner is None:
            return
        node = inner


_HOLDERS = ("backbone", "module", "bottom_up", "net")


def _detector_at(chain: Sequence[DictConfig]) -> int:
    """Of the first call that has a backbone, else that is no adaptation of another."""
    last = len(chain) - 1
    first = next((i for i, node in enumerate(chain) if not _is_adaptation(node)), last)
    return next((i for i, node in enumerate(chain) if "backbone" in node), first)


def _unfrozen(chain: Sequence[DictConfig]) -> list[str]:
    return [name for node in chain if _is_freeze(node) for name in _names(node, "unfreeze")]


def _calls(node: Any, seen: set[int]) -> Iterator[DictConfig]:
    """All calls of a model, the outer ones first, each once, also those that it refers to."""
    if not isinstance(node, DictConfig | ListConfig) or id(node) in seen:
        return
    seen.add(id(node))
    if _is_call(node):
        yield node
    for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
        held = node._get_node(key)
        if OmegaConf.is_missing(node, key):
            continue
        if OmegaConf.is_interpolation(node, key):
            held = _referred(node, key)
        yield from _calls(held, seen)


def _referred(node: DictConfig | ListConfig, key: str | int) -> Any:
    """What a reference leads to; None where that is given later."""
    try:
        return node[key]
    except OmegaConfBaseException:
        return None


def _value(node: DictConfig, key: str, default: Any = None) -> Any:
    if key not in node and not OmegaConf.is_missing(node, key):
        return default
    try:
        return node[key]
    except OmegaConfBaseException as error:
        raise UserError(f"{node._get_full_key(key)}: {one_line(error)}.") from error


def _names(node: DictConfig, key: str) -> tuple[str, ...]:
    value = _value(node, key)
    return (value,) if isinstance(value, str) else tuple(map(str, value or ()))


def _is_call(node: Any) -> bool:
    return isinstance(node, DictConfig) and "_target_" in node


def _called(node: DictConfig) -> str:
    """The last part of what a call calls."""
    return target_name(_value(node, "_target_")).rpartition(".")[2]


def _is_lora(node: DictConfig) -> bool:
    return (_called(node) == "lora" and "targets" in node) or (_called(node) in _BLOCK_ADAPTERS and "module" in node)


def _is_freeze(node: DictConfig) -> bool:
    return _called(node) == "freeze" and "module" in node


def _is_adaptation(node: DictConfig) -> bool:
    return "module" in node and "backbone" not in node


def _lora_call(node: DictConfig) -> LoraCall:
    if (called := _called(node)) in _BLOCK_ADAPTERS:
        rank = _value(node, "rank")
        scale = 1.0 if called == "mona" else _value(node, "scale")
        alpha = None if rank is None or scale is None else float(scale * rank)
        return LoraCall(_names(node, "targets"), rank, alpha, freeze_base=False, variant=called)
    return LoraCall(
        targets=_names(node, "targets"),
        rank=_value(node, "rank"),
        alpha=_value(node, "alpha"),
        freeze_base=bool(_value(node, "freeze_base", True)),
        variant=_value(node, "variant", "lora"),
    )


def _method(loras: Sequence[LoraCall], unfrozen: Sequence[str], *, frozen: bool, partial: bool) -> str:
    if not loras:
        if unfrozen and all(name in _KINDS for name in unfrozen):
            return " and ".join(_KINDS[name] for name in unfrozen)
        return "partly unfrozen" if partial else ("linear probe" if frozen else "full")
    lora = " and ".join(dict.fromkeys(_VARIANTS.get(call.variant, call.variant) for call in loras))
    if not frozen:
        return f"{lora} beside a backbone that trains"
    if not unfrozen:
        return lora
    parts = ", ".join(re.sub(r"^stages_(\d+)$", r"stage \1", name) for name in unfrozen)
    wrapped_train = not any(call.freeze_base for call in loras)
    return f"{lora} + whole {parts}" if wrapped_train else f"{lora} + {parts} without its wrapped layers"


def _detector(node: DictConfig) -> str:
    heads = _value(node, "roi_heads")
    if _is_call(heads) and (name := _HEADS_OF_RCNN.get(_called(heads))):
        return name
    called = _called(node)
    if called == "TransformersDetector":
        return _FAMILIES.get(str(_value(node, "family")), called)
    return called


def _neck(node: DictConfig) -> str:
    name = _called(node)
    return "FPN" if name == "pyramid" else name


def _backbone(node: DictConfig) -> str:
    if isinstance(name := _value(node, "model_name"), str):
        return _timm_words(name)
    if (called := _called(node)) == "VisionMamba":
        size = _VIM_WIDTHS.get(_value(node, "embed_dim", 192))
        return f"ViM-{size}" if size else called
    depth = next((_value(one, "depth") for one in _calls(node, set()) if "depth" in one), None)
    return f"ResNet-{depth}" if "resnet" in called.lower() and depth else called


def _timm_words(name: str) -> str:
    architecture = name.partition(".")[0]
    if match := re.fullmatch(r"resnet(\d+)", architecture):
        return f"ResNet-{match[1]}"
    if match := re.fullmatch(r"convnext(v2)?_([a-z]+)", architecture):
        return f"ConvNeXt{(match[1] or '').upper()}-{_SIZES.get(match[2], match[2].capitalize())}"
    if (match := re.fullmatch(r"vit_(\w+?)_patch(\d+)(_dinov3)?", architecture)) and match[1] in _SIZES:
        return f"{'DINOv3 ' if match[3] else ''}ViT-{_SIZES[match[1]]}/{match[2]}"
    return architecture


def _weights(node: DictConfig) -> str:
    if _value(node, "pretrained"):
        return f"{_value(node, 'model_name', _called(node))}, pretrained"
    weights = _value(node, "weights")
    return weights if isinstance(weights, str) and weights else RANDOM


def _common(values: Sequence[Any]) -> Any:
    return values[0] if values and all(value == values[0] for value in values) else None
