"""Builds a network of transformers, with its backbone taken out."""

import dataclasses
import difflib
import os
from collections.abc import Mapping
from typing import Any

from detectron2.layers import ShapeSpec
from huggingface_hub.errors import StrictDataclassError
from omegaconf import OmegaConf
from torch import nn

from loradet.adapters.filled import mark_loaded
from loradet.adapters.layer import is_under
from loradet.detectors.library.extra import transformers
from loradet.detectors.library.families import Family
from loradet.detectors.library.initialise import initialise
from loradet.detectors.library.maps import LibraryBackbone, MapSlot
from loradet.detectors.library.published import Published
from loradet.errors import UserError, one_line

_OURS = {"num_labels": "num_classes", "id2label": "num_classes", "label2id": "num_classes"}


def build_network(
    family: Family,
    *,
    num_classes: int,
    options: Mapping[str, Any],
    maps: Mapping[str, ShapeSpec] | None,
    weights: str | os.PathLike | None = None,
    load_weights: bool = True,
) -> tuple[nn.Module, MapSlot, LibraryBackbone | None]:
    """A network of transformers, its weights fresh or published.

    Args:
        family: what to build.
        num_classes: K.
        options: of the library's config of that kind.
        maps: of a backbone of ours, finest first; None: the library's own backbone.
        weights: folder or name of published weights, whose config stands for the library's defaults.
        load_weights: False: that config is all that is taken of them.

    Returns:
        The network, what stands in it where its backbone was, and that backbone (None where `maps` are given).

    Raises:
        UserError: an option that the library's config does not have or take, one that follows from the backbone or
            from the data, a backbone that the library would change in silence, or weights that cannot be had or do not
            fit.
    """
    library = transformers()
    given = {
        key: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for key, v in options.items()
    }
    _check_options(getattr(library, family.config), given)
    published = None if weights is None else Published.find(weights, family, config_alone=not load_weights)
    stated = {} if published is None else published.stated(num_classes)
    _check_refused(family, getattr(library, family.config), stated, given)
    try:
        config = _config(family, stated, given, maps) | {"num_labels": num_classes}
        config = getattr(library, family.config).from_dict(config)
        if maps is None:
            _check_own_backbone(library, config)
        network = getattr(library, family.model)(config)
    except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"options of family={family.model_type!r}: {one_line(error)}") from error
    initialise(network)
    if published is not None and load_weights:
        path = _backbone_path(network, family)
        loaded = published.load(network, without=None if maps is None else path)
        mark_loaded(network.get_submodule(path), [n.removeprefix(f"{path}.") for n in loaded if is_under(n, path)])
    _share_heads(network)
    slot, own = _take_backbone(network, family, keep=maps is None)
    # Values that the library never trains: they are none that somebody has to load.
    mark_loaded(network, [name for name, p in network.named_parameters() if not p.requires_grad])
    return network, slot, own


def _config(
    family: Family,
    stated: Mapping[str, Any],
    given: Mapping[str, Any],
    maps: Mapping[str, ShapeSpec] | None,
) -> dict[str, Any]:
    """What the library's config is made from: what published weights state, then options, then what maps ask for."""
    together = {**stated, **given}
    if maps is None:
        return {**(family.for_own(together) or {}), **together}
    from_maps = family.for_maps(list(maps.values()), together)
    if clash := sorted(given.keys() & from_maps.keys()):
        raise UserError(f"options.{clash[0]} follows from the backbone's maps: leave it out.")
    return {**together, **from_maps}


def _check_options(config_class: type, options: Mapping[str, Any]) -> None:
    known = [field.name for field in dataclasses.fields(config_class) if not field.name.startswith("_")]
    for name in options:
        if name in _OURS:
            raise UserError(f"options.{name} is not taken: {_OURS[name]} of the detector says it.")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}."
            raise UserError(f"options.{name}: {config_class.__name__} has no such option; {hint}")


def _check_refused(family: Family, config_class: type, stated: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    together = {**stated, **given}
    for name, reason in (family.refused or {}).items():
        default = next(field.default for field in dataclasses.fields(config_class) if field.name == name)
        if name in together and together[name] != default:
            option, of = f"{name}={together[name]}", f"of family={family.model_type!r}"
            if name in given:
                raise UserError(f"options.{option} {of} is not taken: {reason}.")
            raise UserError(
                f"The weights' config.json has {option}, which {of} is not taken: {reason}. "
                f"Say options.{name}={default} to change it."
            )


def _check_own_backbone(library: Any, config: Any) -> None:
    """Refuse what loses its activations: the library puts frozen batch norms without them in place of timm's."""
    backbone = config.backbone_config
    if getattr(backbone, "model_type", "") != "timm_backbone" or not getattr(
        config, "freeze_backbone_batch_norms", True
    ):
        return
    net = library.AutoBackbone.from_config(backbone)
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d) and not isinstance(getattr(module, "act", nn.Identity()), nn.Identity):
            raise UserError(
                f"The library's own backbone {backbone.backbone!r} would lose its activations: its batch norms hold "
                f"them ({name}), and the library replaces these by frozen ones without. Give "
                f"backbone=L(TimmBackbone)(model_name={backbone.backbone!r}) instead, frozen or not."
            )


def _share_heads(network: nn.Module) -> None:
    """Make heads that share their weights one module, so that an adapter in the one is in the other.

    They are two names of the same tensors in the library: `class_embed` and `model.decoder.class_embed`.
    """
    decoder = network.get_submodule("model.decoder")
    for name in ("class_embed", "bbox_embed"):
        inner, outer = getattr(decoder, name, None), getattr(network, name, None)
        if isinstance(inner, nn.Module) and isinstance(outer, nn.Module):
            theirs, ours = list(inner.parameters()), list(outer.parameters())
            if len(theirs) == len(ours) and all(a is b for a, b in zip(theirs, ours)):
                setattr(network, name, inner)


def _backbone_path(network: nn.Module, family: Family) -> str:
    modules = dict(network.named_modules())
    return next(path for path in family.backbone_paths if path in modules)


def _take_backbone(network: nn.Module, family: Family, *, keep: bool) -> tuple[MapSlot, LibraryBackbone | None]:
    path = _backbone_path(network, family)
    net = network.get_submodule(path)
    from transformers.modeling_outputs import BackboneOutput

    slot = MapSlot(BackboneOutput, config=getattr(net, "config", None) if keep else None)
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, slot)
    return slot, LibraryBackbone(net, family.divisor(net)) if keep else None
