"""Lets a detector take kept outputs of its frozen part in place of computing them, and keeps what it computes."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loradet.errors import UserError
from loradet.feature_cache.frozen_part import FrozenPart
from loradet.feature_cache.layout import Layout
from loradet.feature_cache.stores import Key, Store

logger = logging.getLogger(__name__)

MARK = "kept_features"  # of a sample, beside its image or in place of it


@dataclass(frozen=True)
class Mark:
    """What a sample says of its features.

    Attributes:
        features: name of the `Features` that they are of.
        key: of the entry.
        row: the entry, where a data process has read it.
        is_kept: whether the sample comes without an image, since there is an entry.
    """

    features: str
    key: Key
    row: Tensor | None
    is_kept: bool


@dataclass(frozen=True)
class Features:
    """Entries of one way of computing.

    Attributes:
        store: of the entries.
        layout: of each.
        padded: (height, width) of the batches that they are of, pixels.
        autocast: type of the autocast that they are computed under; None: without.
    """

    store: Store
    layout: Layout
    padded: tuple[int, int]
    autocast: torch.dtype | None


def autocast_now(device: str) -> torch.dtype | None:
    """The type of the autocast that is on for a kind of device; None where it is off."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


class Replay:
    """Hooks of a detector. They act on batches with marked samples alone; state dict and modules stay as they are.

    Args:
        model: takes Detectron2's list of dicts.
        part: whose outputs are kept.
    """

    def __init__(self, model: nn.Module, part: FrozenPart) -> None:
        self.model = model
        self.part = part
        self.features: dict[str, Features] = {}
        self._call: _Call | None = None
        self._is_checked = False  # whether the backbone is known to get what `preprocess_image` makes
        self._has_warned = False  # that outputs cannot be kept
        self._hooks = [
            model.register_forward_pre_hook(self._begin),
            model.register_forward_hook(self._end, always_call=True),
        ]

    def __deepcopy__(self, memo: dict) -> "Replay":
        return self  # a copy of a model computes by itself: `_begin` tells it from the model

    def remove(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()

    def _begin(self, model: nn.Module, args: tuple) -> tuple | None:
        marks = [item.get(MARK) for item in args[0]] if args and isinstance(args[0], list) else []
        if model is not self.model or not any(marks):
            return None
        features = self._features_of(marks)
        rows = [None if mark is None or not mark.is_kept else self._row(features, mark) for mark in marks]
        pixels = None
        if not self._is_checked and all(row is None for row in rows):
            pixels = model.preprocess_image(args[0]).tensor
            self._is_checked = True
        self._call = _Call(self.part, features, marks, rows, pixels)
        self._call.install(model)
        return ([self._with_image(item) for item in args[0]], *args[1:])

    def _features_of(self, marks: Sequence[Mark | None]) -> Features:
        (name,) = {mark.features for mark in marks if mark is not None}
        features = self.features[name]
        device = next(self.model.parameters()).device.type
        if autocast_now(device) != features.autocast:
            raise UserError(
                f"Features of {name} are kept as computed under {features.autocast or 'no autocast'}, and the model is "
                f"called under {autocast_now(device) or 'none'}: leave train.feature_cache.enabled off."
            )
        return features

    @staticmethod
    def _row(features: Features, mark: Mark) -> Tensor:
        row = features.store.read(mark.key) if mark.row is None else mark.row
        if row is None:
            raise UserError(f"The features of {mark.key} have vanished.")
        return row

    @staticmethod
    def _with_image(item: dict[str, Any]) -> dict[str, Any]:
        """A sample that comes without its image gets one of NaN, so that whatever computes on it is seen to."""
        mark = item.get(MARK)
        if mark is None or not mark.is_kept:
            return item
        return {**item, "image": torch.tensor(torch.nan).expand(3, *mark.key.view.size)}

    def _end(self, model: nn.Module, args: tuple, output: Any) -> None:  # noqa: ARG002
        if model is self.model and self._call is not None:
            call, self._call = self._call, None
            lost = call.finish(keep=output is not None)  # None: the call has failed
            if lost and not self._has_warned:
                self._has_warned = True
                advice = "; train.feature_cache.dtype=bf16 or null keeps them" if call.features.layout.overflows else ""
                logger.warning(
                    "Outputs of %s for an image are not finite in the type that they are kept in: it and others like "
                    "it are computed each time%s.",
                    self.part,
                    advice,
                )


class _Call:
    """One call of the detector: its frozen modules' forward passes are replaced until it ends."""

    def __init__(
        self,
        part: FrozenPart,
        features: Features,
        marks: Sequence[Mark | None],
        rows: Sequence[Tensor | None],
        pixels: Tensor | None,
    ) -> None:
        self.part = part
        self.pixels = pixels  # what the backbone has to get; None: not asked
        self._passes = 0
        self.features = features
        self.marks = marks
        self.missing = [i for i, row in enumerate(rows) if row is None]
        self.known = [i for i, row in enumerate(rows) if row is not None]
        self.kept_rows = [row for row in rows if row is not None]
        self._kept: dict[str, Tensor] = {}
        self._computed: dict[str, Tensor] = {}  # of the missing images
        self._replaced: list[tuple[nn.Module, Callable | None]] = []
        self._is_compact = False  # whether what comes is of the missing images alone

    def install(self, model: nn.Module) -> None:
        """Put stand-ins in the place of the modules' forward passes."""
        if self.kept_rows:
            self._kept = self.features.layout.batch(self.kept_rows, next(model.parameters()).device)
        self._hook = model.get_submodule(self.part.backbone).register_forward_pre_hook(self._check_input)
        for path in self.part.steps:
            module = model.get_submodule(path)
            self._replaced.append((module, vars(module).get("forward")))
            module.forward = self._stand_in(path, module.forward)

    def _check_input(self, backbone: nn.Module, args: tuple) -> None:
        self._passes += 1
        height, width = args[0].shape[-2:]
        if self._passes > 1 or (self.pixels is not None and not self.pixels.equal(args[0])):
            what = "more than once a call" if self._passes > 1 else "on other pixels than its preprocess_image gives"
            raise UserError(
                f"The detector runs {self.part.backbone} ({type(backbone).__name__}) {what}, so that features are not "
                "of an image alone: leave train.feature_cache.enabled off."
            )
        if (height, width) != self.features.padded:
            raise UserError(
                f"A batch is padded to {height}x{width} pixels, and features are kept of "
                f"{self.features.padded[0]}x{self.features.padded[1]}: leave train.feature_cache.enabled off."
            )

    def finish(self, *, keep: bool) -> int:
        """Put the forward passes back, and keep what was computed where that is wanted.

        Returns:
            How many images are not kept, since their outputs are not finite.
        """
        self._hook.remove()
        for module, own in self._replaced:
            del module.forward
            if own is not None:
                module.forward = own
        layout = self.features.layout
        lost = 0
        if not keep or self._computed.keys() != {one.name for one in layout.outputs}:
            return lost
        with torch.inference_mode(False):
            for place, number in enumerate(self.missing):
                mark = self.marks[number]
                if mark is None:
                    continue
                tensors = layout.tensors({name: tensor[place] for name, tensor in self._computed.items()})
                if tensors is not None:
                    self.features.store.write(mark.key, tensors)
                lost += tensors is None
        return lost

    def _stand_in(self, path: str, compute: Callable) -> Callable:
        is_kept = path in self.part.kept

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not self.known:
                found = compute(x, *args, **kwargs)
                if is_kept:
                    self._keep(path, found)
                return found
            if self.missing:
                own = x if self._is_compact else x[self.missing]
                found = compute(own, *args, **kwargs)
                if is_kept:
                    self._keep(path, found)
            self._is_compact = not is_kept
            if not is_kept:
                return found if self.missing else x
            whole = {name: self._merged(name) for name in self._names(path)}
            return {name.partition(":")[2]: tensor for name, tensor in whole.items()} if _is_map(whole) else whole[path]

        return forward

    def _keep(self, path: str, found: Any) -> None:
        """Copies, since what comes behind may change its input in place."""
        self._computed |= {name: tensor.detach().clone() for name, tensor in named(path, found).items()}

    def _names(self, path: str) -> list[str]:
        return [one.name for one in self.features.layout.outputs if one.name.partition(":")[0] == path]

    def _merged(self, name: str) -> Tensor:
        kept = self._kept[name]
        if not self.missing:
            return kept
        whole = kept.new_empty((len(self.marks), *kept.shape[1:]))
        whole[self.known], whole[self.missing] = kept, self._computed[name]
        is_last = kept.dim() == 4 and not kept.is_contiguous()
        return whole.contiguous(memory_format=torch.channels_last) if is_last else whole


def _is_map(names: Mapping[str, Any]) -> bool:
    return any(":" in name for name in names)


def named(path: str, output: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs of a module by the names that a layout has for them.

    Raises:
        UserError: the module gives something else than a tensor or tensors by name.
    """
    if isinstance(output, Tensor):
        return {path: output}
    if isinstance(output, Mapping) and all(isinstance(value, Tensor) for value in output.values()):
        return {f"{path}:{name}": value for name, value in output.items()}
    raise UserError(f"{path} gives a {type(output).__name__}, no maps: its outputs cannot be kept.")
