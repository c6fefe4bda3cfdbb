"""Parameters of a kind, which `freeze` can leave training: `kind:norm` and `kind:bias`."""

from torch import nn

from loradet.adapters.layer import adapter_tensor_names
from loradet.errors import UserError

PREFIX = "kind:"


def parameters_of_kind(module: nn.Module, name: str, argument: str) -> list[str]:
    """Paths of the parameters of a module that `kind:norm` or `kind:bias` names.

    Norms are modules whose class has "Norm" in its name, weights and biases of theirs; biases are those of norms and of
    all other layers (Ben Zaken et al., "BitFit", arXiv:2106.10199).

    Raises:
        UserError: there is no such kind, or the module has none of it.
    """
    kinds, deltas = {"norm": _norms, "bias": _biases}, adapter_tensor_names(module)
    if name.removeprefix(PREFIX) not in kinds:
        raise UserError(f"{argument}: {name!r} is no kind; there is {', '.join(PREFIX + kind for kind in kinds)}.")
    found = [path for path in kinds[name.removeprefix(PREFIX)](module) if path not in deltas]
    if not found:
        raise UserError(f"{argument}: {name!r} names nothing here: {type(module).__name__} has no such parameter.")
    return found


def _norms(module: nn.Module) -> list[str]:
    norms = [(path, one) for path, one in module.named_modules() if "Norm" in type(one).__name__]
    return [f"{path}.{name}" for path, one in norms for name, _ in one.named_parameters(recurse=False)]


def _biases(module: nn.Module) -> list[str]:
    return [path for path, _ in module.named_parameters() if path.endswith("bias")]
