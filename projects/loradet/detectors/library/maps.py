"""How maps of a backbone reach a network of transformers, and how a backbone of transformers looks like ours."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from loradet.backbones.unused import stop_training_unused
from loradet.errors import UserError


class MapSlot(nn.Module):
    """Stands where a network has its backbone, and gives the maps that were put in.

    So a detector runs its backbone itself, as others do, under its own name and with its own adapters.

    Args:
        output: makes the library's `BackboneOutput`.
        config: of the backbone whose place it takes, which some networks read.
    """

    def __init__(self, output: type, config: object = None) -> None:
        super().__init__()
        self.output, self.config = output, config
        self.maps: tuple[Tensor, ...] | None = None

    @contextlib.contextmanager
    def filled(self, maps: Sequence[Tensor]) -> Iterator[None]:
        """Give these maps, (N, C, h, w) each, finest first, inside the block."""
        self.maps = tuple(maps)
        try:
            yield
        finally:
            self.maps = None

    def forward(self, _: Tensor, **__: object):
        """The maps, as the library's output; the images are not looked at."""
        if self.maps is None:
            raise RuntimeError("The network is called without maps: call the detector.")
        return self.output(feature_maps=self.maps)


class LibraryBackbone(Backbone):
    """A backbone of transformers as one of Detectron2's, kept as the attribute `net`; its maps are `map0`, `map1` …

    Strides are found by running it once. Parameters that no map depends on are frozen.

    Args:
        net: takes images (N, 3, H, W), gives maps, or an object with `feature_maps`.
        divisor: sides of the image must be multiples of it, where the network says so itself; None: of the largest
            stride.
    """

    def __init__(self, net: nn.Module, divisor: int | None = None) -> None:
        super().__init__()
        self.net = net
        side = divisor or 128
        was_training = net.training
        with torch.no_grad():
            maps = self._maps(torch.zeros(1, 3, side, side), net.eval())
        net.train(was_training)
        stop_training_unused(net, (3, side, side), type(net).__name__, lambda images: self._maps(images, net))
        self._shapes = {
            f"map{i}": ShapeSpec(channels=feature.shape[1], stride=side // feature.shape[-1])
            for i, feature in enumerate(maps)
        }
        self._divisor = divisor or max(shape.stride for shape in self._shapes.values())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps by name."""
        return dict(zip(self._shapes, self._maps(x, self.net)))

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self._shapes)

    @staticmethod
    def _maps(x: Tensor, net: nn.Module) -> Sequence[Tensor]:
        output = net(x)
        return getattr(output, "feature_maps", output)

    @property
    def size_divisibility(self) -> int:
        """What sides of the image must be multiples of."""
        return self._divisor


def choose_maps(backbone: Backbone, in_features: Sequence[str] | None) -> dict[str, ShapeSpec]:
    """Names and shapes of the maps that a detector works on, finest first.

    Args:
        backbone: any Detectron2 backbone.
        in_features: names; None: all that it gives.

    Raises:
        UserError: a map that the backbone does not give, or one that does not say its stride.
    """
    shapes: Mapping[str, ShapeSpec] = backbone.output_shape()
    names = list(shapes) if in_features is None else list(in_features)
    if not names or (unknown := [name for name in names if name not in shapes]):
        raise UserError(f"in_features={names}: the backbone gives {', '.join(shapes)}.")
    if unknown := [name for name in names if not shapes[name].stride or not shapes[name].channels]:
        raise UserError(f"The backbone's output_shape() says no stride or channels of {', '.join(unknown)}.")
    return {name: shapes[name] for name in sorted(names, key=lambda name: shapes[name].stride)}
