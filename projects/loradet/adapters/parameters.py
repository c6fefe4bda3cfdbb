"""Trainable and total parameters by part of a detector."""

from dataclasses import dataclass

from torch import nn

from loradet.adapters.layer import is_under, join, unwrap

PARTS = ("backbone", "neck", "head")


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters."""

    trainable: int
    total: int


@dataclass(frozen=True)
class ParameterTable:
    """Parameter counts by part; `str()` of it is a table in millions."""

    parts: dict[str, ParameterCount]

    @property
    def all(self) -> ParameterCount:
        """The sum over the parts."""
        counts = self.parts.values()
        return ParameterCount(sum(c.trainable for c in counts), sum(c.total for c in counts))

    def to_dict(self) -> dict[str, dict[str, int]]:
        """{"backbone": {"trainable": …, "total": …}, "neck": …, "head": …, "all": …}."""
        rows = {**self.parts, "all": self.all}
        return {name: {"trainable": count.trainable, "total": count.total} for name, count in rows.items()}

    def __str__(self) -> str:
        lines = [f"{'part':<10}{'trainable (M)':>15}{'total (M)':>12}{'trainable':>12}"]
        for name, count in {**self.parts, "all": self.all}.items():
            share = f"{count.trainable / count.total:.2%}" if count.total else "-"
            lines.append(f"{name:<10}{count.trainable / 1e6:>15.3f}{count.total / 1e6:>12.3f}{share:>12}")
        return "\n".join(lines)


def parameter_table(model: nn.Module) -> ParameterTable:
    """Count the parameters of a detector, trainable and in all; a shared one counts once.

    What lies below `backbone_path` is the backbone, what else lies in `backbone` is the neck, everything else the head.
    """
    model = unwrap(model)
    path = backbone_path(model)
    trainable, total = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        part = _part(name, path)
        total[part] += parameter.numel()
        trainable[part] += parameter.numel() if parameter.requires_grad else 0
    return ParameterTable({part: ParameterCount(trainable[part], total[part]) for part in PARTS})


def backbone_path(model: nn.Module) -> str:
    """Where a detector keeps its backbone without the neck.

    Under a feature pyramid that is `backbone.bottom_up` (FPN) or `backbone.net` (SimpleFeaturePyramid); a `backbone`
    without these is backbone as a whole.
    """
    backbone = getattr(model, "backbone", None)
    names = (name for name in ("bottom_up", "net") if isinstance(getattr(backbone, name, None), nn.Module))
    return join("backbone", next(names, ""))


def part_of(model: nn.Module, name: str) -> str:
    """Which of `PARTS` a tensor of a detector belongs to, as `parameter_table` counts it."""
    return _part(name, backbone_path(unwrap(model)))


def _part(name: str, backbone: str) -> str:
    if not is_under(name, "backbone"):
        return "head"
    return "backbone" if is_under(name, backbone) else "neck"
