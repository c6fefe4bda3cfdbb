"""Which tensors of a model hold loaded weights, and which frozen ones would stay random.

Whoever loads weights into a module says so by `mark_loaded`. What is frozen and was filled by nobody never learns: a
detector on it trains to nothing.
"""

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from loradet.adapters.layer import AdapterLayer, adapter_tensor_names, join, unwrap
from loradet.adapters.parameters import PARTS, part_of

_FILLED = "loaded_tensors"
# Packages whose modules load no weights unless somebody calls for it, and of those whose networks lie inside of them.
_OWN = ("loradet", "detectron2")
_LIBRARIES = ("torch", "torchvision", "timm", "fvcore", "transformers")


def mark_loaded(module: nn.Module, names: Iterable[str] | None = None) -> None:
    """Note that tensors of a module hold weights that were loaded (or that nothing depends on).

    Args:
        module: keeps the note, under `freeze` and `lora` too.
        names: as in its state dict; None for all of them.
    """
    held = module.state_dict() if names is None else names
    setattr(module, _FILLED, {*getattr(module, _FILLED, ()), *held})


mark_filled = mark_loaded  # the name that it had first


def loaded_tensors(model: nn.Module) -> set[str]:
    """Names in the model's state dict that a part of it, or the model itself, was marked with."""
    return {join(path, name) for path, module in unwrap(model).named_modules() for name in getattr(module, _FILLED, ())}


def random_frozen(model: nn.Module) -> dict[str, list[str]]:
    """Frozen tensors that nobody filled, by part ("backbone", "neck", "head"); parts without any are left out.

    A frozen tensor is a parameter without gradient, a statistic of a batch norm whose parameters are frozen, or
    anything of a FrozenBatchNorm2d in a part with such tensors: where all around it trains, as in Detectron2's own
    configs, a new one is the identity, not random. Modules of other packages than loradet and Detectron2 may load what
    they want in their constructors, so nothing is said of them.
    """
    model = unwrap(model)
    unfilled = set(_frozen(model)) - loaded_tensors(model) - adapter_tensor_names(model)
    if not unfilled:
        return {}
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[str, list[str]] = {part: [] for part in PARTS}
    for name in model.state_dict():
        if name in unfilled and _is_known(modules, name):
            found[part_of(model, name)].append(name)
    identities = {join(path, n) for path, m in modules.items() if _is_identity_norm(m) for n in m.state_dict()}
    return {part: names for part, names in found.items() if not identities.issuperset(names)}


def _frozen(model: nn.Module) -> Iterable[str]:
    yield from (name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad)
    for path, module in model.named_modules(remove_duplicate=False):
        if _is_frozen_norm(module):
            buffers = (name for name, _ in module.named_buffers(recurse=False) if name != "num_batches_tracked")
            yield from (join(path, name) for name in buffers)


def _is_identity_norm(module: nn.Module) -> bool:
    return any(base.__name__ == "FrozenBatchNorm2d" for base in type(module).__mro__)  # Detectron2's, torchvision's


def _is_frozen_norm(module: nn.Module) -> bool:
    if _is_identity_norm(module):
        return True
    own = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
    # Statistics that are gathered in training are not frozen.
    return isinstance(module, _BatchNorm) and bool(own) and not any(own) and not module.training


def _is_of_adapters(module: nn.Module) -> bool:
    return isinstance(module, AdapterLayer) or type(module).__module__.startswith("loradet.adapters.")


def _is_known(modules: dict[str, nn.Module], name: str) -> bool:
    """Whether the innermost module around a tensor that is of no library is one of ours or of Detectron2's."""
    path = name
    while path:
        path = path.rpartition(".")[0]
        if path not in modules or _is_of_adapters(modules[path]):
            continue  # it holds, or stands for, a layer of the module around it
        package, _, rest = type(modules[path]).__module__.partition(".")
        if package not in _LIBRARIES:
            # Detectron2 runs config files, and what they import, under its own name.
            return package in _OWN and not rest.startswith("_cfg_loader")
    return True
