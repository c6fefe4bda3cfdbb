"""Which blocks of timm can be adapted, and how a config's names find them."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from loradet.adapters.freezing import refresh_mode
from loradet.adapters.layer import AdapterLayer, is_under
from loradet.adapters.lora_layer import check_hyperparameters
from loradet.adapters.matching import match_names
from loradet.adapters.recipe import ensure_recipe, logger
from loradet.adapters.variants.blocks import AdaptedBlock
from loradet.adapters.variants.grid import Grid
from loradet.errors import UserError
from loradet.wording import group_paths, shorten

ALL = ("re:.*",)


@dataclass(frozen=True)
class BlockKind:
    """A class of blocks.

    Attributes:
        home, name: of the class.
        reads: all that its forward pass reads by name. Where a version of timm reads more, it computes something else.
        takes_tokens: and not maps.
    """

    home: str
    name: str
    reads: str
    takes_tokens: bool = False

    @property
    def timm_class(self) -> type[nn.Module] | None:
        """Looked up, not imported: who has a block of timm has timm."""
        return getattr(sys.modules.get(self.home), self.name, None)

    def objection(self, module: nn.Module) -> str | None:
        """Why a block of this class cannot be adapted, or None."""
        if "forward" in vars(module):
            return "somebody has replaced its forward pass, which would be skipped"
        reads = set(type(module).forward.__code__.co_names)
        if unknown := sorted(reads - set(self.reads.split())):
            return f"the forward pass of this timm reads {shorten(unknown)}, which loradet does not know of"
        if missing := [name for name in self.reads.split() if name not in reads]:
            return f"the forward pass of this timm does not read {shorten(missing)}"
        return None


KINDS = (
    BlockKind(
        "timm.models.vision_transformer",
        "Block",
        "norm1 attn ls1 drop_path1 norm2 mlp ls2 drop_path2",
        takes_tokens=True,
    ),
    BlockKind(
        "timm.models.eva",
        "EvaBlock",
        "norm1 attn gamma_1 drop_path1 norm2 mlp gamma_2 drop_path2",
        takes_tokens=True,
    ),
    BlockKind(
        "timm.models.swin_transformer",
        "SwinTransformerBlock",
        "shape norm1 _attn drop_path1 norm2 mlp drop_path2 reshape",
    ),
    BlockKind(
        "timm.models.convnext",
        "ConvNeXtBlock",
        "conv_dw use_conv_mlp norm mlp permute gamma mul reshape drop_path shortcut",
    ),
)
_SUPPORTED = "those of ViT (Block), EVA and DINOv3 (EvaBlock), Swin (SwinTransformerBlock) and ConvNeXt (ConvNeXtBlock)"


def adapt_blocks(
    root: nn.Module, variant: str, targets: Sequence[str] | str, *, rank: int, alpha: float, dropout: float
) -> nn.Module:
    """Turn the blocks that `targets` name into those of "mona" or "adaptformer", in place; see there.

    Raises:
        ValueError: as these. Nothing has been changed then.
    """
    check_hyperparameters(rank, alpha, dropout)
    modules = dict(root.named_modules(remove_duplicate=False))
    found = match_names(targets, list(modules), argument=f"{variant}: targets")
    if not found:
        raise UserError(f"{variant}: targets is empty; leave it out for all blocks.")
    blocks = [path for name, named in found.items() for path in _blocks(variant, name, named, modules)]
    paths = list(dict.fromkeys(blocks))
    classes = {path: _class_for(variant, path, modules[path]) for path in paths}
    needs_grid = [path for path in paths if variant == "mona" and _kind_of(modules[path]).takes_tokens]
    networks = {path: _network_of(path, modules) for path in needs_grid}
    recipe = ensure_recipe(root)
    for path, block_class in classes.items():
        if not isinstance(modules[path], AdapterLayer):  # one block can be registered at two paths
            grid = Grid.of_network(networks[path]) if path in networks else None
            block_class.from_base(modules[path], rank=rank, alpha=alpha, dropout=dropout, grid=grid)
    refresh_mode(root)
    entry = {"targets": list(found), "matched": paths, "rank": rank, "alpha": float(alpha)}
    recipe["lora"].append({**entry, "dropout": float(dropout), "freeze_base": False, "variant": variant})
    words = (variant, rank, alpha / rank, len(paths), shorten(group_paths(paths), 8))
    logger.info("%s: rank %d, scale %g in %d blocks: %s", *words)
    return root


def _blocks(variant: str, name: str, named: Sequence[str], modules: Mapping[str, nn.Module]) -> list[str]:
    """Paths of the blocks in the modules that a target names."""
    inside = [path for path in modules if any(is_under(path, one) for one in named)]
    if adapted := [path for path in inside if isinstance(modules[path], AdaptedBlock)]:
        first = modules[adapted[0]]
        raise UserError(
            f"{variant}: {adapted[0]!r} is a block with {first.unmergeable} already; name each block in one call only."
        )
    blocks = [path for path in inside if any(type(modules[path]) is kind.timm_class for kind in KINDS)]
    if not blocks:
        classes = dict.fromkeys(type(modules[path]).__name__ for path in inside if any(modules[path].children()))
        classes = [one for one in classes if one not in ("Sequential", "ModuleList", "ModuleDict")]
        there = shorten(classes or dict.fromkeys(type(modules[path]).__name__ for path in inside), 8)
        raise UserError(
            f"{variant}: {name!r} names no block that {variant} supports: in it there is {there}. It takes timm's "
            f"blocks: {_SUPPORTED}."
        )
    return blocks


def _kind_of(block: nn.Module) -> BlockKind:
    return next(kind for kind in KINDS if type(block) is kind.timm_class)


def _class_for(variant: str, path: str, block: nn.Module) -> type[AdaptedBlock]:
    """The adapted block's class. Raises UserError where this block cannot be one."""
    kind = _kind_of(block)
    if reason := kind.objection(block):
        raise UserError(f"{variant}: {path!r} ({kind.name}) cannot be adapted: {reason}.")
    from loradet.adapters.variants.timm_blocks import CLASSES

    return CLASSES[variant, kind.name]


def _network_of(path: str, modules: Mapping[str, nn.Module]) -> nn.Module:
    """The innermost network around a ViT's block that knows the size of its maps."""
    while path:
        path = path.rpartition(".")[0]
        if hasattr(getattr(modules.get(path), "patch_embed", None), "dynamic_feat_size"):
            return modules[path]
    raise UserError(
        "mona: these blocks are given tokens, and no patch_embed around them tells the size of the map that the tokens "
        "are of: call mona on the whole network."
    )
