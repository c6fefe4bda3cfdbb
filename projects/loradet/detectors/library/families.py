"""The detectors of transformers that can be built here, and what each of them asks for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from detectron2.layers import ShapeSpec

from loradet.errors import UserError

Options = Mapping[str, Any]


def _nothing(_: Any) -> None:
    return None


@dataclass(frozen=True)
class Family:
    """One kind of detector, by its `model_type` in transformers.

    Attributes:
        model_type: as in a file `config.json`.
        config, model: names of its classes.
        backbone_paths: where its network keeps what makes maps; the first that exists.
        for_maps: the options that follow from the maps of a backbone of ours: (maps, options) to options.
        for_own: defaults of options that follow from others with the library's own backbone.
        maps_double: the stride of each map must be twice that of the one before.
        picks_positions: queries are the best of all positions of the maps, so there must be as many.
        max_detections: of an image, as the library's post-processing takes them; None: as many as there are queries.
        is_weighted: whether the losses come multiplied by their weights.
        has_distributions: boxes are refined as distributions (D-FINE), of which losses can be had.
        unused_without_objects: tensor that nothing depends on in a batch without objects.
        refused: options that do not work in the library, and why.
        divisor: what sides of the image must be multiples of for the library's own backbone, where it cuts images into
            windows; None elsewhere.
        is_square: its own backbone mixes up windows of an image that is not square.
    """

    model_type: str
    config: str
    model: str
    backbone_paths: tuple[str, ...]
    for_maps: Callable[[Sequence[ShapeSpec], Options], dict[str, Any]]
    for_own: Callable[[Options], dict[str, Any] | None] = _nothing
    maps_double: bool = True
    picks_positions: bool = True
    max_detections: int | None = None
    is_weighted: bool = True
    has_distributions: bool = False
    unused_without_objects: str | None = None
    refused: Mapping[str, str] | None = None
    divisor: Callable[[Any], int | None] = _nothing
    is_square: bool = False

    def check_maps(self, maps: Mapping[str, ShapeSpec]) -> None:
        """Compare a backbone's maps, finest first, with what the decoder can use.

        Raises:
            UserError: their strides do not double, or, of a detector on a ViT, maps differ in stride or channels.
        """
        listed = ", ".join(f"{name} (stride {shape.stride}, {shape.channels} channels)" for name, shape in maps.items())
        shapes = list(maps.values())
        if self.maps_double and any(coarse.stride != 2 * fine.stride for fine, coarse in pairwise(shapes)):
            raise UserError(
                f"family={self.model_type!r} needs maps whose strides double from one to the next, and the backbone "
                f"gives {listed}: choose maps by in_features or the backbone's out_features; of a ViT's, "
                "SimpleFeaturePyramid makes such maps."
            )
        if not self.maps_double and any(
            (shape.stride, shape.channels) != (shapes[0].stride, shapes[0].channels) for shape in shapes
        ):
            raise UserError(
                f"family={self.model_type!r} needs maps of one stride and as many channels, as a ViT gives them "
                f"(TimmViT with blocks=[2,5,8,11]), and the backbone gives {listed}: name one by in_features."
            )


def find_family(model_type: str) -> Family:
    """The family of a name.

    Raises:
        UserError: there is none; lists those that there are.
    """
    if model_type not in FAMILIES:
        raise UserError(f"family={model_type!r}: expected one of {', '.join(FAMILIES)}.")
    return FAMILIES[model_type]


def _resnet(maps: Sequence[ShapeSpec]) -> dict[str, Any]:
    """The smallest backbone of the library that gives so many channels; it is taken out again."""
    return {
        "model_type": "resnet",
        "embedding_size": 1,
        "hidden_sizes": [shape.channels for shape in maps],
        "depths": [1] * len(maps),
        "layer_type": "bottleneck",
        "out_indices": list(range(1, len(maps) + 1)),
    }


def _for_hybrid_encoder(maps: Sequence[ShapeSpec], options: Options) -> dict[str, Any]:
    width = options.get("encoder_hidden_dim", 256)
    return {
        "backbone_config": _resnet(maps),
        "encoder_in_channels": [shape.channels for shape in maps],
        "feat_strides": [shape.stride for shape in maps],
        "decoder_in_channels": [width] * len(maps),
        "num_feature_levels": len(maps),
        "encode_proj_layers": [len(maps) - 1],
    }


def _for_own_backbone(options: Options) -> dict[str, Any]:
    levels = len(options.get("encoder_in_channels", (8, 16, 32)))
    return {"decoder_in_channels": [options.get("encoder_hidden_dim", 256)] * levels}


_FIXED_SIZE = {
    "anchor_image_size": "anchors follow the size of the image here",
    "eval_size": "the library then leaves position embeddings out in evaluation",
}
_NO_QUERIES = {"learn_initial_query": "it fails in the library (transformers 5.24)"}
_SIGMOID = {"use_focal_loss": "scores are those of a sigmoid here"}
_HYBRID: dict[str, Any] = {
    "for_maps": _for_hybrid_encoder,
    "for_own": _for_own_backbone,
    "unused_without_objects": "model.denoising_class_embed.weight",
    "refused": _FIXED_SIZE | _NO_QUERIES | _SIGMOID,
}

FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            model_type="d_fine",
            config="DFineConfig",
            model="DFineForObjectDetection",
            backbone_paths=("model.backbone.model",),
            has_distributions=True,
            **_HYBRID,
        ),
    )
}
