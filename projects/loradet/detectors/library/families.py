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
        maps: "double": the stride of each map must be twice that of the one before; "equal": all have one stride and as
            many channels; "any".
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
    maps: str = "double"
    picks_positions: bool = True
    max_detections: int | None = None
    is_weighted: bool = True
    has_distributions: bool = False
    unused_without_objects: str | None = None
    refused: Mapping[str, str] | None = None
    divisor: Callable[[Any], int | None] = _nothing
    is_square: bool = False

    def added_maps(self, config: Any) -> int:
        """How many maps the encoder makes besides the backbone's, each of half the size of the one before."""
        return int(getattr(config, "encoder_type", "hybrid") == "lite")

    def choice(self, config: Any, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """How many queries are chosen among how many positions of maps of these (height, width)."""
        if not self.picks_positions:
            return 0, 0
        if self.maps == "equal":  # one map is made of all, at each of these scales
            height, width = sizes[0]
            scales = getattr(config, "projector_scale_factors", (1.0,))
            sizes = [(int(height * scale), int(width * scale)) for scale in scales]
        for _ in range(self.added_maps(config)):
            sizes = [*sizes, tuple(-(-side // 2) for side in sizes[-1])]
        return config.num_queries, sum(height * width for height, width in sizes)

    def check_maps(self, maps: Mapping[str, ShapeSpec]) -> None:
        """Compare a backbone's maps, finest first, with what the decoder can use.

        Raises:
            UserError: their strides do not double, or, of a detector on a ViT, maps differ in stride or channels.
        """
        listed = ", ".join(f"{name} (stride {shape.stride}, {shape.channels} channels)" for name, shape in maps.items())
        shapes = list(maps.values())
        if self.maps == "double" and any(coarse.stride != 2 * fine.stride for fine, coarse in pairwise(shapes)):
            raise UserError(
                f"family={self.model_type!r} needs maps whose strides double from one to the next, and the backbone "
                f"gives {listed}: choose maps by in_features or the backbone's out_features; of a ViT's, "
                "SimpleFeaturePyramid makes such maps."
            )
        if self.maps == "equal" and any(
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


def _for_rt_detr(maps: Sequence[ShapeSpec], options: Options) -> dict[str, Any]:
    return _for_hybrid_encoder(maps, options) | {"decoder_n_levels": len(maps)}


def _for_deimv2(maps: Sequence[ShapeSpec], options: Options) -> dict[str, Any]:
    found = _for_hybrid_encoder(maps, options)
    if options.get("encoder_type") == "lite":
        found |= _for_lite(len(maps), options) | {"feat_strides": [maps[0].stride, 2 * maps[0].stride]}
    return found


def _for_own_deimv2(options: Options) -> dict[str, Any]:
    if options.get("encoder_type") == "lite":
        return _for_lite(len(options.get("encoder_in_channels", (8, 16, 32))), options)
    return _for_own_backbone(options)


def _for_lite(count: int, options: Options) -> dict[str, Any]:
    """The lite encoder makes two maps of one: it does without a second, and leaves layers behind it untrained."""
    if count != 1:
        raise UserError(
            f"options.encoder_type='lite' makes two maps of one, and the backbone gives {count}: with these, layers "
            "would stay untrained. Name one by in_features (of the library's own backbone: by its out_indices and "
            "options.encoder_in_channels), or take 'hybrid'."
        )
    return {"decoder_in_channels": [options.get("encoder_hidden_dim", 256)] * 2, "num_feature_levels": 2}


def _for_deformable(maps: Sequence[ShapeSpec], options: Options) -> dict[str, Any]:
    levels = options.get("num_feature_levels", 4)
    if levels < len(maps) or (levels == 1 != len(maps)):
        raise UserError(
            f"options.num_feature_levels={levels}: the backbone gives {len(maps)} maps, each of which is a level."
        )
    return {"backbone_config": _resnet(maps)}


def _vit(model_type: str, maps: Sequence[ShapeSpec], **more: Any) -> dict[str, Any]:
    """The smallest ViT of the library that gives so many channels; it is taken out again."""
    return {
        "model_type": model_type,
        "hidden_size": maps[0].channels,
        "num_hidden_layers": len(maps),
        "num_attention_heads": 1,
        "mlp_ratio": 1,
        "patch_size": 16,
        "num_windows": 1,
        "out_features": [f"stage{i + 1}" for i in range(len(maps))],
        **more,
    }


def _for_rf_detr(maps: Sequence[ShapeSpec], _: Options) -> dict[str, Any]:
    return {"backbone_config": _vit("rf_detr_dinov2", maps, image_size=16)}


def _for_lw_detr(maps: Sequence[ShapeSpec], _: Options) -> dict[str, Any]:
    return {"backbone_config": _vit("lw_detr_vit", maps, image_size=16, pretrain_image_size=16)}


def _window_rows(net: Any) -> int:
    """Pixels of a side that are a patch in each window."""
    config = net.config
    return config.patch_size * getattr(config, "num_windows_side", config.num_windows)


_FIXED_SIZE = {
    "anchor_image_size": "anchors follow the size of the image here",
    "eval_size": "the library then leaves position embeddings out in evaluation",
}
_ALL_TRAIN = {"auxiliary_loss": "heads of the decoder layers before the last would stay untrained"}
_ONE_STAGE = {"two_stage": "its heads behind the encoder would stay untrained"}
_NO_QUERIES = {"learn_initial_query": "it fails in the library (transformers 5.24)"}
_SIGMOID = {"use_focal_loss": "scores are those of a sigmoid here"}
_HYBRID: dict[str, Any] = {
    "for_maps": _for_hybrid_encoder,
    "for_own": _for_own_backbone,
    "unused_without_objects": "model.denoising_class_embed.weight",
    "refused": _FIXED_SIZE | _NO_QUERIES | _SIGMOID | _ALL_TRAIN,
}

_GROUPS: dict[str, Any] = {"maps": "equal", "is_weighted": False, "divisor": _window_rows}
_CONV = ("model.backbone.model",)
_VIT = ("model.backbone.backbone",)

FAMILIES = {
    family.model_type: family
    for family in (
        Family("d_fine", "DFineConfig", "DFineForObjectDetection", _CONV, has_distributions=True, **_HYBRID),
        Family(
            "rt_detr_v2", "RTDetrV2Config", "RTDetrV2ForObjectDetection", _CONV, **_HYBRID | {"for_maps": _for_rt_detr}
        ),
        Family(
            "deimv2",
            "Deimv2Config",
            "Deimv2ForObjectDetection",
            ("model.conv_encoder.model", "model.conv_encoder.backbone"),
            has_distributions=True,
            **_HYBRID | {"for_maps": _for_deimv2, "for_own": _for_own_deimv2},
        ),
        Family(
            "deformable_detr",
            "DeformableDetrConfig",
            "DeformableDetrForObjectDetection",
            _CONV,
            _for_deformable,
            refused=_ONE_STAGE,
            maps="any",
            picks_positions=False,
            max_detections=100,
            is_weighted=False,
        ),
        Family("rf_detr", "RfDetrConfig", "RfDetrForObjectDetection", _VIT, _for_rf_detr, is_square=True, **_GROUPS),
        Family(
            "lw_detr", "LwDetrConfig", "LwDetrForObjectDetection", _VIT, _for_lw_detr, max_detections=100, **_GROUPS
        ),
    )
}
