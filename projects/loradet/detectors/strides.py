"""Anchors and poolers stand on the maps that the backbone gives: their strides are compared with it."""

from collections.abc import Iterator, Sequence

from torch import nn

from loradet.errors import UserError


def check_strides(model: nn.Module) -> None:
    """Compare strides that a detector's config states with those of its backbone's maps.

    Looked at are anchors (`anchor_generator.strides` of a RetinaNet, an FCOS or an RPN) and `ROIPooler` (`scales` of
    the box pooler), as far as the detector has them under Detectron2's names.

    Raises:
        UserError: a map that the backbone does not have, or other strides; both are named.
    """
    maps = _strides_of_maps(model)
    if not maps:
        return
    for key, names_key, names, strides in _stated(model):
        if unknown := [name for name in names if name not in maps]:
            raise UserError(
                f"{names_key}={list(names)}: the backbone gives {', '.join(maps)}, and no {', '.join(unknown)}."
            )
        found = [maps[name] for name in names]
        if None not in found and list(strides) != found:
            inverse = key.endswith("scales")
            written, right = (f"[{', '.join(map(_fraction if inverse else _plain, one))}]" for one in (strides, found))
            raise UserError(
                f"{key}={written}, but the strides of {', '.join(names)} are {', '.join(map(_plain, found))} in this "
                f"backbone: set {key}={right}, or take other maps by {names_key}."
            )


def _strides_of_maps(model: nn.Module) -> dict[str, int | None]:
    backbone = getattr(model, "backbone", None)
    if not hasattr(backbone, "output_shape"):
        return {}
    return {name: shape.stride for name, shape in backbone.output_shape().items()}


def _stated(model: nn.Module) -> Iterator[tuple[str, str, Sequence[str], Sequence[float]]]:
    """Key of the strides, key of the maps' names, these names, and the strides in pixels."""
    # An installed Detectron2 keeps lists as the config has them, which are sequences of their own kind.
    for path, part, attribute in (
        ("model", model, "head_in_features"),
        ("model.proposal_generator", getattr(model, "proposal_generator", None), "in_features"),
    ):
        names, strides = (
            getattr(part, attribute, None),
            getattr(getattr(part, "anchor_generator", None), "strides", None),
        )
        if names and isinstance(strides, Sequence) and all(isinstance(stride, int | float) for stride in strides):
            yield f"{path}.anchor_generator.strides", f"{path}.{attribute}", names, strides
    heads = getattr(model, "roi_heads", None)
    names, poolers = getattr(heads, "box_in_features", None), getattr(heads, "box_pooler", None)
    scales = [getattr(one, "spatial_scale", None) for one in getattr(poolers, "level_poolers", ())]
    if names and scales and all(scales):
        key = "model.roi_heads.box_pooler.scales"
        yield key, "model.roi_heads.box_in_features", names, [1 / scale for scale in scales]


def _plain(stride: float) -> str:
    return f"{stride:g}"


def _fraction(stride: float) -> str:
    return f"{1 / stride:g}"
