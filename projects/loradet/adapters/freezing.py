"""`freeze`: no gradients and eval mode for a module, but for what is named."""

import functools
import types
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from loradet.adapters.kinds import PREFIX, parameters_of_kind
from loradet.adapters.layer import adapter_layers, is_under, join
from loradet.adapters.matching import as_list, match_names
from loradet.adapters.recipe import RECIPE, ensure_recipe, logger
from loradet.errors import UserError
from loradet.wording import group_paths, shorten

if TYPE_CHECKING:

    class _Base(nn.Module):
        """Stands for the module's own class, which comes behind the mixin in every frozen class."""

else:
    _Base = object


def freeze(module: nn.Module, unfreeze: Sequence[str] = (), *, statistics: bool = False) -> nn.Module:
    """Freeze a module in place, but for what `unfreeze` names.

    Frozen parameters get no gradient, and frozen modules stay in eval mode whatever `.train()` says. What is
    unfrozen, and LoRA layers, follow the mode. A module that holds frozen and unfrozen parts is in eval mode itself;
    only in a detector (a module with a `backbone`) such modules outside the backbone follow, since their forward pass
    branches on it.

    Args:
        module: becomes an instance of a subclass of its class; state-dict keys stay.
        unfreeze: modules or parameters that train: `stages_3` (whole dotted components at the end of a path, with all
            that lies below), or `re:` and a regular expression that matches a whole path; `kind:norm` and `kind:bias`
            are the parameters of all norms, and all biases.
        statistics: frozen batch norms follow the mode all the same: in training they normalise by the batch and gather
            its statistics, which adapter files then hold. For random weights, whose statistics say nothing yet.

    Returns:
        The module itself.

    Raises:
        ValueError: a name does not exist, the module is frozen already, or `statistics` finds no batch norm.
    """
    if isinstance(module, FrozenMixin):
        raise UserError("freeze: this module is frozen already; name all that trains in one `unfreeze`.")
    modules = [path for path, _ in module.named_modules(remove_duplicate=False) if path]
    parameters = [path for path, _ in module.named_parameters(remove_duplicate=False)]
    names = as_list(unfreeze, "freeze: unfreeze")
    kinds = [name for name in names if name.startswith(PREFIX)]
    found = match_names([n for n in names if n not in kinds], [*modules, *parameters], argument="freeze: unfreeze")
    found |= {name: parameters_of_kind(module, name, "freeze: unfreeze") for name in kinds}
    named = {path for paths in found.values() for path in paths}
    entry = {
        "unfreeze": list(found),
        "modules": _topmost(path for path in modules if path in named),
        "parameters": [path for path in parameters if path in named],
    }
    if statistics:
        entry["statistics"] = [path for path, norm in module.named_modules() if path and isinstance(norm, _BatchNorm)]
        if not entry["statistics"]:
            raise UserError("freeze: statistics=True, but the module holds no batch norm that gathers statistics.")
    _check_nesting(module, entry)
    ensure_recipe(module)["freeze"] = entry
    _set_gradients(module, [*entry["modules"], *entry["parameters"]])
    module.__class__ = _frozen_class(cast(Any, type(module)))
    module.train(module.training)
    logger.info(
        "freeze: %s is frozen; unfrozen (%s): %s",
        getattr(module, RECIPE)["class"],
        ", ".join(found) or "nothing named",
        shorten(group_paths([*entry["modules"], *entry["parameters"]]), 8) or "nothing",
    )
    return module


class FrozenMixin(_Base):
    """Gives a module class eval mode in its frozen parts; `freeze` puts it in front of the module's own class."""

    asked_mode: bool
    frozen_class: type[nn.Module]

    def train(self, mode: bool = True) -> "FrozenMixin":
        """Set the mode of what is not frozen."""
        super().train(False)
        self.asked_mode = mode
        if mode:
            entry = getattr(self, RECIPE)["freeze"]
            for path in [*entry["modules"], *entry.get("statistics", ())]:
                self.get_submodule(path).train()
            for _, layer in adapter_layers(self):
                layer.train_adapter()
            for module in self._branching_modules():
                module.training = True
        return self

    def _branching_modules(self) -> Iterator[nn.Module]:
        """Of a detector: itself, and modules outside the backbone that hold something that trains."""
        if not isinstance(getattr(self, "backbone", None), nn.Module):
            return
        yield self
        entry = getattr(self, RECIPE)["freeze"]
        # Of a parameter that trains, the module that owns it stays frozen; what holds that module follows.
        owners = [path.rpartition(".")[0] for path in entry["parameters"]]
        for path in [*entry["modules"], *owners, *(path for path, _ in adapter_layers(self))]:
            while (path := path.rpartition(".")[0]) and not is_under(path, "backbone"):
                yield self.get_submodule(path)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple:
        # The class is made at run time: what is stored is the class that was frozen.
        rebuild, arguments, *rest = cast(tuple, super().__reduce_ex__(protocol))
        own = type(self)
        arguments = tuple(own.frozen_class if argument is own else argument for argument in arguments)
        return (_rebuild_frozen, (rebuild, arguments), *rest)


def _rebuild_frozen(rebuild: Any, arguments: tuple) -> nn.Module:
    module = rebuild(*arguments)
    module.__class__ = _frozen_class(cast(Any, type(module)))
    return module


@functools.cache
def _frozen_class(base: type[nn.Module]) -> type[nn.Module]:
    body = {"__module__": base.__module__, "__doc__": base.__doc__, "frozen_class": base}
    return types.new_class(f"Frozen{base.__name__}", (FrozenMixin, base), exec_body=lambda space: space.update(body))


def refresh_mode(module: nn.Module) -> None:
    """Establish the mode that was last asked for again, after layers were wrapped in frozen modules."""
    if isinstance(module, FrozenMixin):
        module.train(module.asked_mode)
    else:
        for child in module.children():
            refresh_mode(child)


def frozen_modules(model: nn.Module) -> set[str]:
    """Paths of all modules that a `freeze` keeps in eval mode (or would, but for branching on it)."""
    frozen = set()
    for root_path, root in model.named_modules():
        if isinstance(root, FrozenMixin):
            entry = getattr(root, RECIPE)["freeze"]
            unfrozen = [*entry["modules"], *entry.get("statistics", ())]
            for path, _ in root.named_modules(remove_duplicate=False):
                if not any(is_under(path, name) for name in unfrozen):
                    frozen.add(join(root_path, path))
    return frozen


def _topmost(paths: Iterator[str]) -> list[str]:
    kept: list[str] = []
    for path in paths:
        if not any(is_under(path, other) for other in kept):
            kept.append(path)
    return kept


def _check_nesting(module: nn.Module, entry: dict[str, Any]) -> None:
    for path, inner in module.named_modules():
        if not isinstance(inner, FrozenMixin):
            continue
        for name in [*entry["modules"], *entry["parameters"]]:
            if is_under(name, path) or is_under(path, name):
                raise UserError(
                    f"freeze: unfreeze names {name!r}, but {path!r} is frozen by a call of its own: "
                    "name what trains there in that call's `unfreeze`."
                )


def _set_gradients(module: nn.Module, unfrozen: Sequence[str]) -> None:
    layers = [layer for _, layer in adapter_layers(module)]
    deltas = {id(tensor) for layer in layers for tensor in layer.adapter_tensors().values()}
    kept_frozen = {id(p) for layer in layers if layer.freeze_base for p in layer.parameters()} - deltas
    trains = {
        id(parameter)
        for path, parameter in module.named_parameters(remove_duplicate=False)
        if any(is_under(path, name) for name in unfrozen)
    }
    for parameter in module.parameters():
        if id(parameter) not in deltas:
            parameter.requires_grad_(id(parameter) in trains and id(parameter) not in kept_frozen)
