"""Any timm feature network as a Detectron2 backbone."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from omegaconf import OmegaConf
from timm.models import FeatureDictNet

from loradet.backbones import timm_factory
from loradet.backbones.checkpointing import checkpoint_blocks, refuse_counting_twice
from loradet.backbones.unused import stop_training_unused
from loradet.backbones.weights import load_weights
from loradet.errors import UserError


@BACKBONE_REGISTRY.register()
class TimmBackbone(Backbone):
    """A timm model that supports `features_only`, kept as the attribute `net`.

    Outputs are `stage0`, `stage1` ... from stride 4 on, so that `stage1 … stage3` have strides 8, 16, 32 in
    every four-stage network; earlier outputs, which some networks have, are `stem0`, `stem1` ... Stages after
    the last one asked for are neither built nor run where timm allows it, and no parameter that the outputs
    do not depend on is left trainable.

    Attributes:
        model_name: as given.
        channels, strides: by output name.
        mean, std: of the RGB input in the 0..1 scale, as the network's weights expect it.
        pixel_mean, pixel_std: the same in the 0..255 scale.
        licence: licence of the published weights that `model_name` stands for, None where timm names none.

    Args:
        model_name: timm's name, with its weights tag or without (`convnext_small.dinov3_lvd1689m`).
        pretrained: load the published weights through timm (Hugging Face hub, or its cache).
        out_features: names of the outputs; None gives all stages.
        weights: safetensors or pth file to load instead: a path, or `asset://NAME` for a file that loradet
            ships. See `loradet.backbones.weights.load_weights`.
        channels_last: memory format that the network runs in; None decides by what timm's family gains from.
        checkpoint: gradient checkpointing: backward runs each block again, and keeps its input alone until then.
        timm_kwargs: further arguments of the timm model, such as `drop_path_rate`.

    Raises:
        ValueError: unknown model or output name, a model without feature extraction, or `checkpoint` of one that timm
            does not checkpoint.
        TypeError: an argument that the timm model does not have.
        PretrainedWeightsError: the published weights cannot be had.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool = False,
        out_features: Sequence[str] | None = None,
        *,
        weights: str | os.PathLike | None = None,
        channels_last: bool | None = None,
        checkpoint: bool = False,
        **timm_kwargs: Any,
    ):
        super().__init__()
        if pretrained and weights is not None:
            raise UserError(
                f"pretrained=True and weights={str(weights)!r} are both given for {model_name!r}: "
                "set pretrained=False to load the file."
            )
        # Detectron2's instantiate() hands lists over as omegaconf's, which torch and timm do not take.
        timm_kwargs = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in timm_kwargs.items()}
        info = timm_factory.describe(model_name, timm_kwargs)
        names = stage_names([entry["reduction"] for entry in info])
        self._out_features = _checked(out_features, names, model_name)
        indices = [names.index(name) for name in self._out_features]

        self.net = timm_factory.build(model_name, pretrained, indices, timm_kwargs)
        self.model_name = model_name
        self.channels = {name: info[i]["num_chs"] for name, i in zip(self._out_features, indices)}
        self.strides = {name: info[i]["reduction"] for name, i in zip(self._out_features, indices)}
        self._out_feature_channels, self._out_feature_strides = self.channels, self.strides
        pretrained_cfg = self.net.pretrained_cfg
        self.mean, self.std = tuple(pretrained_cfg["mean"]), tuple(pretrained_cfg["std"])
        self.pixel_mean = tuple(255.0 * value for value in self.mean)
        self.pixel_std = tuple(255.0 * value for value in self.std)
        self.licence = pretrained_cfg.get("license")
        self.channels_last = (
            timm_factory.gains_from_channels_last(model_name) if channels_last is None else channels_last
        )
        self._is_nhwc = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")

        self.checkpoint = checkpoint
        if weights is not None:
            load_weights(self.net, weights, model_name, timm_kwargs)
        if not isinstance(self.net, FeatureDictNet):  # that one is cut after the last output
            stop_training_unused(self.net, timm_factory.input_size(self.net, timm_kwargs), model_name)
        if checkpoint:
            checkpoint_blocks(self.net, model_name)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features by output name.

        Args:
            x: normalised images (N, C, H, W).

        Returns:
            {name: (N, channels[name], H', W')}, where H' and W' are H and W over strides[name], rounded as
            the network's convolutions do.
        """
        if self.checkpoint:
            refuse_counting_twice(self.net)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        features = self.net(x)
        if self._is_nhwc:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return dict(zip(self._out_features, features))

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=self.channels[name], stride=self.strides[name]) for name in self._out_features}

    @property
    def size_divisibility(self) -> int:
        """Largest output stride: networks that cut the image into patches drop what is left at its border."""
        return max(self.strides.values())


def stage_names(strides: Sequence[int]) -> list[str]:
    """Output names of a network whose feature maps have these strides."""
    stems = sum(stride < 4 for stride in strides)
    return [f"stem{i}" if i < stems else f"stage{i - stems}" for i in range(len(strides))]


def _checked(out_features: Sequence[str] | None, names: list[str], model_name: str) -> list[str]:
    """Output names in the network's order."""
    if out_features is None:
        return [name for name in names if name.startswith("stage")]
    unknown = [name for name in out_features if name not in names]
    if unknown or not out_features or isinstance(out_features, str):
        raise UserError(
            f"out_features={out_features!r} of {model_name!r}: expected a list of some of {', '.join(names)}."
        )
    return [name for name in names if name in set(out_features)]
