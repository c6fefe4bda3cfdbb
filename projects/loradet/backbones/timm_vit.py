"""timm's plain vision transformers, DINOv3's among them, as a Detectron2 backbone."""

import functools
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from omegaconf import OmegaConf
from torch import Tensor, nn

from loradet.backbones import timm_factory
from loradet.backbones.checkpointing import checkpoint_blocks
from loradet.backbones.precision import DTYPES, amp_dtype
from loradet.backbones.weights import load_weights
from loradet.errors import UserError

RESERVED = {
    "features_only": "it is always on here",
    "feature_cls": "maps are made here",
    "checkpoint_path": "use weights=",
    "pretrained_cfg": "use weights=, or the tag in model_name",
    "out_indices": "name the blocks in blocks",
    "dynamic_img_size": "it is always on here",
    "dynamic_img_pad": "this backbone pads by itself",
    "patch_drop_rate": "a map needs all patches",
}


@BACKBONE_REGISTRY.register()
class TimmViT(Backbone):
    """A timm ViT for images of any size, kept as the attribute `net`; its maps have one stride, that of a patch.

    What is not a multiple of the patch is padded with zeros at the right and the bottom. Position embeddings follow
    the size of the image, as timm does it: learned ones are resized, rotary ones computed. Class and register tokens
    take part in the network and are dropped from the maps. Blocks after the last one asked for are not kept.

    While no parameter of it trains it runs under `no_grad`, so training keeps none of its activations. Only an input
    that requires a gradient itself, as for saliency maps, gets one.

    Attributes:
        model_name: as given.
        channels, strides: by output name.
        mean, std: of the RGB input in the 0..1 scale, as the network's weights expect it.
        pixel_mean, pixel_std: the same in the 0..255 scale.
        licence: licence of the published weights that `model_name` stands for, None where timm names none.

    Args:
        model_name: timm's name, with its weights tag or without (`vit_large_patch16_dinov3.lvd1689m`).
        pretrained: load the published weights through timm (Hugging Face hub, or its cache).
        blocks: which blocks give a map, counted from 0, or from the end if negative; block i is the output `block<i>`.
        norm: whether the network's final norm is applied to every map.
        frozen_dtype: "bf16", "fp16" or "auto" (bf16 where the device has it, else fp16) for the forward pass while no
            parameter trains, in evaluation too; maps have the input's type all the same. None, and a network that has
            something to train, leave it to the caller's autocast.
        weights: safetensors or pth file to load instead: a path, or `asset://NAME`. See
            `loradet.backbones.weights.load_weights`.
        checkpoint: gradient checkpointing: backward runs each block again, and keeps its input alone until then.
        timm_kwargs: further arguments of the timm model, such as `drop_path_rate`.

    Raises:
        ValueError: an unknown model, one that is not a plain ViT or has no final norm for `norm`, a block that it
            does not have, or another `frozen_dtype`.
        TypeError: an argument that the timm model does not have.
        PretrainedWeightsError: the published weights cannot be had.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool = False,
        blocks: Sequence[int] = (-1,),
        *,
        norm: bool = True,
        frozen_dtype: str | None = None,
        weights: str | os.PathLike | None = None,
        checkpoint: bool = False,
        **timm_kwargs: Any,
    ):
        super().__init__()
        _check_arguments(model_name, pretrained, weights, frozen_dtype, timm_kwargs)
        # Detectron2's instantiate() hands lists over as omegaconf's, which torch and timm do not take.
        timm_kwargs = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in timm_kwargs.items()}
        timm_kwargs["dynamic_img_size"] = True
        info = _describe(model_name, timm_kwargs)
        self.blocks = _checked_blocks(blocks, len(info), model_name)
        self.norm, self.frozen_dtype = norm, frozen_dtype

        # In place of timm's wrapper, which would drop the norm.
        cut = functools.partial(_without_unused, norm=norm)
        self.net = timm_factory.build(model_name, pretrained, self.blocks, {**timm_kwargs, "feature_cls": cut})
        ratio = self.net.patch_embed.feat_ratio(as_scalar=False)
        if ratio[0] != ratio[1]:
            raise UserError(f"The patches of {model_name!r} are {ratio[0]}×{ratio[1]}; TimmViT takes square ones.")
        if norm and isinstance(self.net.norm, nn.Identity):
            raise UserError(
                f"{model_name!r} has no norm of tokens after its last block (it norms what it pools): set norm=False."
            )
        _call_qkv_layers(self.net)
        if checkpoint:
            checkpoint_blocks(self.net, model_name)
        self.model_name = model_name
        self._out_features = [f"block{i}" for i in self.blocks]
        self.channels = {f"block{i}": info[i]["num_chs"] for i in self.blocks}
        self.strides = {f"block{i}": info[i]["reduction"] for i in self.blocks}
        pretrained_cfg = self.net.pretrained_cfg
        self.mean, self.std = tuple(pretrained_cfg["mean"]), tuple(pretrained_cfg["std"])
        self.pixel_mean = tuple(255.0 * value for value in self.mean)
        self.pixel_std = tuple(255.0 * value for value in self.std)
        self.licence = pretrained_cfg.get("license")
        if weights is not None:
            load_weights(self.net, weights, model_name, timm_kwargs)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps by output name.

        Args:
            x: normalised images (N, 3, H, W).

        Returns:
            {name: (N, channels[name], H', W')}, H' and W' being H and W over the patch's edge, rounded up.
        """
        x = self._padded(x)
        if any(p.requires_grad for p in self.parameters()):
            return self._maps(x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
            if self.frozen_dtype is None:
                return self._maps(x)
            with torch.autocast(x.device.type, amp_dtype(self.frozen_dtype, x.device)):
                return {name: feature.to(x.dtype) for name, feature in self._maps(x).items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=self.channels[name], stride=self.strides[name]) for name in self._out_features}

    @property
    def size_divisibility(self) -> int:
        """Edge of a patch in pixels: padding a whole batch to it spares the backbone's own padding."""
        return self.strides[self._out_features[0]]

    def _padded(self, x: Tensor) -> Tensor:
        bottom, right = (-size % self.size_divisibility for size in x.shape[-2:])
        return F.pad(x, (0, right, 0, bottom)) if bottom or right else x

    def _maps(self, x: Tensor) -> dict[str, Tensor]:
        features = self.net.forward_intermediates(x, indices=self.blocks, norm=self.norm, intermediates_only=True)
        return dict(zip(self._out_features, features))


def _check_arguments(
    model_name: str,
    pretrained: bool,
    weights: str | os.PathLike | None,
    frozen_dtype: str | None,
    timm_kwargs: dict[str, Any],
) -> None:
    if pretrained and weights is not None:
        raise UserError(
            f"pretrained=True and weights={str(weights)!r} are both given for {model_name!r}: "
            "set pretrained=False to load the file."
        )
    if frozen_dtype not in (None, *DTYPES):
        raise UserError(f"frozen_dtype={frozen_dtype!r}; expected {', '.join(DTYPES)} or None.")
    for name, instead in RESERVED.items():
        if name in timm_kwargs:
            raise TypeError(f"TimmViT does not take {name}: {instead}.")


def _describe(model_name: str, timm_kwargs: dict[str, Any]) -> list[dict[str, Any]]:
    """timm's `feature_info`, one entry a block."""
    reason = f"{model_name!r} is not a plain ViT; TimmBackbone takes other networks."
    try:
        info = timm_factory.describe(model_name, timm_kwargs, out_indices=[0])
    except TypeError as error:
        if "'dynamic_img_size'" not in str(error):  # which the plain ViTs have
            raise
        raise UserError(reason) from None
    strides = {entry["reduction"] for entry in info}
    if [entry["module"] for entry in info] != [f"blocks.{i}" for i in range(len(info))] or len(strides) > 1:
        raise UserError(reason)
    return info


def _checked_blocks(blocks: Sequence[int], depth: int, model_name: str) -> list[int]:
    """Indices from 0, in the network's order, each once."""
    listed = isinstance(blocks, Sequence) and len(blocks) > 0
    if not listed or not all(isinstance(i, int) and -depth <= i < depth for i in blocks):
        raise UserError(
            f"blocks={blocks!r} of {model_name!r}: expected a list of some of 0 … {depth - 1}, or -{depth} … -1 "
            "from the end."
        )
    return sorted({i % depth for i in blocks})


def _without_unused(model: nn.Module, *, out_indices: Sequence[int], norm: bool, **_: Any) -> nn.Module:
    """Cut off what no map needs: later blocks, pooling, the classifier, and the norm if it is not asked for."""
    model.prune_intermediate_layers(list(out_indices), prune_norm=not norm)
    return model


def _call_qkv_layers(net: nn.Module) -> None:
    """Make attention call its `qkv` layers: where these have biases, timm reads their weights, past any LoRA."""
    for module in net.modules():
        if getattr(module, "qkv_bias_separate", True) is False:
            module.qkv_bias_separate = True
