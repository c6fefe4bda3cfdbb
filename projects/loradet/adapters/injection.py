"""`lora`: wrap the layers that a config names."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from loradet.adapters.freezing import FrozenMixin, refresh_mode
from loradet.adapters.layer import AdapterLayer
from loradet.adapters.lean.recognise import check_memory, set_memory
from loradet.adapters.lora_layer import check_hyperparameters
from loradet.adapters.matching import match_names, nearest
from loradet.adapters.recipe import ensure_recipe, logger
from loradet.adapters.variants.layer_ranks import by_layer
from loradet.adapters.variants.registry import VARIANTS, Variant, variant_of
from loradet.errors import UserError
from loradet.wording import group_paths, shorten

# What LoRA itself wraps, which is all that any variant does.
_WRAPPED = tuple(VARIANTS["lora"].kinds)


def lora(
    module: nn.Module,
    targets: Sequence[str],
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    freeze_base: bool = True,
    memory: str = "lean",
    variant: str = "lora",
    ranks: Mapping[str, int] | None = None,
    alphas: Mapping[str, float] | None = None,
) -> nn.Module:
    """Add a trainable low-rank delta to the layers that `targets` name, in place.

    At first the delta is zero: outputs are those of the base, bit for bit. Layers keep their state-dict keys; keys
    that end in `lora_a` and `lora_b` come besides.

    Args:
        module: frozen by `freeze` or not.
        targets: `mlp.fc1` (whole dotted components at the end of a path), or `re:` and a regular expression that
            matches a whole path. They name Linear layers, Conv2d with groups=1 or depthwise, and MultiheadAttention as
            a whole.
        rank: inner size of the delta.
        alpha: the delta is scaled by alpha / rank.
        dropout: probability of dropping an element of the low-rank path's input while training.
        freeze_base: the wrapped layers' own parameters stop training, even inside an unfrozen stage. With False
            they stay as they are.
        memory: what backward keeps. "lean": what is cheap to compute again, such as norms and activations, is not
            kept where a block is recognised; "least": nor is the output of the first layer of an MLP; "plain": all
            that autograd keeps. Results and gradients are the same.
        variant: "lora"; "rslora", which scales by alpha / √rank; "dora", which trains the length of each row of the
            weight besides; "pissa", which begins with the weight's principal part.
        ranks, alphas: of some layers, by pattern: `{"stages_3": 32, "mlp.fc1": 8}`. A pattern names a module with all
            that is wrapped in it; of two that name a layer the first holds.

    Returns:
        The module itself.

    Raises:
        ValueError: a target or a pattern names nothing or something that cannot be wrapped, or rank, alpha, dropout,
            memory or variant is out of range. Nothing has been changed then.
    """
    check_hyperparameters(rank, alpha, dropout)
    check_memory(memory)
    chosen = variant_of(variant)
    modules = {path: m for path, m in module.named_modules(remove_duplicate=False) if path}
    found = _find(targets, modules)
    paths = list(dict.fromkeys(path for matched in found.values() for path in matched))
    kinds = {path: _kind_for(path, modules, module, chosen) for path in paths}
    layer_ranks = by_layer(paths, list(modules), rank, ranks, "lora: ranks")
    layer_alphas = by_layer(paths, list(modules), alpha, alphas, "lora: alphas")
    for path in paths:
        check_hyperparameters(layer_ranks[path], layer_alphas[path], dropout)
    recipe = ensure_recipe(module)
    for path, kind in kinds.items():
        if not isinstance(modules[path], AdapterLayer):  # one module can be registered at two paths
            sizes: dict[str, Any] = {"rank": layer_ranks[path], "alpha": layer_alphas[path]}
            kind.from_base(modules[path], **sizes, dropout=dropout, freeze_base=freeze_base, **chosen.options)
    refresh_mode(module)
    recognised = set_memory(module, {modules[path] for path in paths}, memory)
    for own_rank, own_alpha in dict.fromkeys((layer_ranks[path], layer_alphas[path]) for path in paths):
        matched = [path for path in paths if (layer_ranks[path], layer_alphas[path]) == (own_rank, own_alpha)]
        entry = {"targets": list(found), "matched": matched, "rank": own_rank, "alpha": float(own_alpha)}
        entry |= {"dropout": float(dropout), "freeze_base": bool(freeze_base)}
        recipe["lora"].append(entry if variant == "lora" else {**entry, "variant": variant})
        groups = shorten(group_paths(matched), 8)  # the recipe has all of them
        prefix = "" if variant == "lora" else f"variant {variant}, "
        words = (prefix, own_rank, own_alpha, len(matched), ", ".join(found), groups)
        logger.info("lora: %srank %d, alpha %g on %d layers (%s): %s", *words)
    if memory != "plain":
        logger.info("lora: memory %s: %s", memory, recognised or "nothing recognised, all is kept")
    return module


def _find(targets: Sequence[str], modules: dict[str, nn.Module]) -> dict[str, list[str]]:
    wrappable = _wrappable(modules)
    found = match_names(targets, list(modules), argument="lora: targets", listed=wrappable)
    if not found:
        raise UserError(f"lora: targets is empty; name at least one layer. {nearest('', wrappable)}")
    return found


def _wrappable(modules: dict[str, nn.Module]) -> list[str]:
    return [
        path
        for path, module in modules.items()
        if isinstance(module, _WRAPPED) and not isinstance(_parent(path, modules), nn.MultiheadAttention)
    ]


def _kind_for(path: str, modules: dict[str, nn.Module], root: nn.Module, variant: Variant) -> type[AdapterLayer]:
    """The adapter layer for the module at a path. Raises ValueError where there is none."""
    module = modules[path]
    if isinstance(module, AdapterLayer):
        raise UserError(f"lora: {path!r} is a {type(module).__name__} already; name each layer in one `lora` only.")
    kind = next((adapter for base, adapter in variant.kinds.items() if isinstance(module, base)), None)
    if kind is None:
        *names, last = (base.__name__ for base in variant.kinds)
        inner = [p for p in _wrappable(modules) if p.startswith(f"{path}.")]
        hint = f" In it there is: {shorten(inner)}." if inner else ""
        wraps = f"{variant.name} wraps {', '.join(names)} and {last}"
        raise UserError(f"lora: {path!r} is a {type(module).__name__}; {wraps}.{hint}")
    _refuse_fused_parent(path, module, _parent(path, modules, root))
    if isinstance(module, FrozenMixin):
        raise UserError(f"lora: {path!r} is frozen by a call of its own; call `freeze` on a module that holds it.")
    if reason := kind.unsupported_reason(module):
        raise UserError(f"lora: {path!r} ({type(module).__name__}) cannot be wrapped: {reason}.")
    weights = {id(p) for p in module.parameters() if p.dim() > 1}
    inside = set(module.modules())
    users = [p for p, m in modules.items() if m not in inside and any(id(w) in weights for w in m._parameters.values())]
    if users:
        raise UserError(f"lora: {path!r} shares its weight with {shorten(users)}; merging would change both.")
    return kind


def _parent(path: str, modules: dict[str, nn.Module], root: nn.Module | None = None) -> nn.Module | None:
    return modules.get(path.rpartition(".")[0], root)


def _refuse_fused_parent(path: str, module: nn.Module, parent: nn.Module | None) -> None:
    """Raise ValueError where the parent reads its child's weight and does not call the child."""
    if isinstance(parent, nn.MultiheadAttention):
        attention = path.rpartition(".")[0] or "the attention"
        raise UserError(
            f"lora: {path!r} belongs to a MultiheadAttention, which reads its weight without calling it: name "
            f"{attention!r} itself, whose LoRA is of q, k, v and the output."
        )
    # Of an attention in it, what the fused code reads has the delta; see LoRAMultiheadAttention.
    if isinstance(parent, nn.TransformerEncoderLayer) and not isinstance(module, nn.MultiheadAttention):
        raise UserError(
            f"lora: {path!r} belongs to TransformerEncoderLayer, whose fused code reads its weight without calling it, "
            "so the delta would be bypassed. LoRA cannot wrap it."
        )
