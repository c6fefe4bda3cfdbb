"""Blocks of timm that got small modules of their own: what Mona and AdaptFormer share of the adapter layer protocol."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from loradet.adapters.layer import AdapterLayer
from loradet.adapters.variants.bottleneck import Bottleneck
from loradet.errors import UserError


class AdaptedBlock(AdapterLayer):
    """A block whose forward pass asks `_after_attention` and `_after_mlp` what to go on with.

    It comes before a forward pass of `timm_blocks` and timm's class in the bases. Its own modules are called
    `own_names`; the parameters of the block itself are left as they are.
    """

    variant: ClassVar[str]
    unmergeable: ClassVar[str]
    module_class: ClassVar[type[Bottleneck]]
    own_names: ClassVar[tuple[str, ...]]
    channels_of: ClassVar[Callable[[Any], int]]  # of a block's output; with the forward pass
    # What tells the size of a ViT's maps; None where the block is given maps.
    grid: Any = None
    merged = False  # type: ignore[assignment]

    def _after_attention(self, x: Tensor, entered: Tensor) -> Tensor:
        """What goes on into the MLP, of the sum behind the attention; `entered` is the block's input."""
        del entered
        return x

    def _after_mlp(self, x: Tensor, normed: Tensor, entered: Tensor) -> Tensor:
        """The block's output, of the sum behind the MLP; `normed` is what the MLP was given."""
        raise NotImplementedError

    @classmethod
    def from_base(
        cls,
        module: nn.Module,
        *,
        rank: int,
        alpha: float,
        dropout: float,
        freeze_base: bool = False,
        grid: Any = None,
        **options: Any,
    ) -> "AdaptedBlock":
        del options
        like, channels = next(module.parameters()), cls.channels_of(module)
        module.__class__ = cls
        block = cast(AdaptedBlock, module)
        block.rank, block.alpha, block.dropout, block.freeze_base = rank, alpha, dropout, freeze_base
        block.grid = grid
        for name in cls.own_names:
            block.add_module(name, cls.module_class(channels, rank, dropout, like).train(module.training))
        return block

    def _own(self) -> Iterator[tuple[str, Bottleneck]]:
        for name in self.own_names:
            yield name, cast(Bottleneck, getattr(self, name))

    def adapter_tensors(self) -> dict[str, Tensor]:
        return {f"{name}.{key}": value for name, own in self._own() for key, value in own.named_parameters()}

    def adapter_shapes(self, rank: int) -> dict[str, tuple[int, ...]]:
        shapes = {name: own.shapes(own.channels, rank) for name, own in self._own()}
        return {f"{name}.{key}": shape for name, found in shapes.items() for key, shape in found.items()}

    def replace_adapter(
        self, tensors: Mapping[str, Tensor], *, rank: int, alpha: float, dropout: float, freeze_base: bool
    ) -> None:
        self.rank, self.alpha, self.dropout, self.freeze_base = rank, float(alpha), float(dropout), freeze_base
        for name, own in self._own():
            own.replace({key: tensors[f"{name}.{key}"] for key in own.shapes(own.channels, rank)}, dropout)

    @property
    def is_base(self) -> bool:
        return all(own.is_zero for _, own in self._own())

    def train_adapter(self) -> None:
        for _, own in self._own():
            own.train()

    def merge(self) -> None:
        """Raise UserError: no weight of the block can hold what its own modules compute."""
        raise UserError(f"merge: {self.unmergeable} computes beside the layers of a block, so it cannot be merged.")

    def unmerge(self) -> None:
        """Nothing: it is never merged."""

    def merged_state(self) -> dict[str, Tensor]:
        """As `merge`."""
        raise UserError(f"merge: {self.unmergeable} computes beside the layers of a block, so it cannot be merged.")

    def extra_repr(self) -> str:
        return f"{self.unmergeable}: rank={self.rank}, alpha={self.alpha:g}"
