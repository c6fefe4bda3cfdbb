"""A row of stages as one autograd function that keeps little and computes the rest again in backward."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loradet.adapters.lean.first_order import refuse_second_derivative
from loradet.adapters.lean.source import Maker, source_of
from loradet.adapters.lean.stages import Kept, Parameters, Stage

MEMORY = ("lean", "least", "plain")


def run_chain(x: Tensor, stages: Sequence[tuple[Stage, Parameters]], memory: str) -> Tensor:
    """The last stage's output, whose gradients are those of plain autograd.

    Args:
        x: input of the first stage. Where it is known what it was made from (`remember_source`), that is kept for it.
        stages: each with its parameters; something of them or x requires a gradient. The last is not pointwise.
        memory: "lean" keeps what stages put out that are not pointwise; "least" keeps the input alone. Rank-sized
            tensors and dropout's masks are kept in both.
    """
    source = source_of(x)
    chain = _Chain(tuple(stage for stage, _ in stages), memory == "lean", None if source is None else source.maker)
    parameters = [parameter for _, group in stages for parameter in group]
    return _ChainFunction.apply(chain, x, None if source is None else source.input, *parameters)


@dataclass(frozen=True)
class _Chain:
    stages: tuple[Stage, ...]
    keeps_maps: bool
    maker: Maker | None  # of the first input; it holds no tensor of the pass, those are autograd's to keep and free

    def split(self, values: Sequence) -> list[tuple]:
        """One value for each parameter, in order, by stage."""
        iterator = iter(values)
        return [tuple(next(iterator) for _ in range(stage.parameters)) for stage in self.stages]

    def start(self, needs_x: bool, needs: Sequence[tuple[bool, ...]]) -> int:
        """The first stage that backward comes to."""
        return 0 if needs_x else next(number for number, group in enumerate(needs) if any(group))

    def keeps_input(self, number: int, start: int) -> bool:
        """Whether the input of a stage is kept, and not made again by the stage before."""
        return number == start or (number > start and self.keeps_maps and not self.stages[number - 1].pointwise)


class _ChainFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, chain, x, source, *parameters):
        start = chain.start(ctx.needs_input_grad[1], chain.split(ctx.needs_input_grad[3:]))
        ctx.chain, ctx.start = chain, start
        inputs, kept = [], []
        for number, (stage, group) in enumerate(zip(chain.stages, chain.split(parameters))):
            kept_input = source if number == 0 and chain.maker is not None else x
            inputs.append(kept_input if chain.keeps_input(number, start) else None)
            x, extra = stage.run(x, group)
            kept.append(extra if number >= start else Kept())
        ctx.save_for_backward(*parameters, *inputs, *(tensor for extra in kept for tensor in extra))
        return x

    @staticmethod
    def backward(ctx, grad):
        refuse_second_derivative()
        chain, start, saved = ctx.chain, ctx.start, iter(ctx.saved_tensors)
        groups = [tuple(next(saved) for _ in range(stage.parameters)) for stage in chain.stages]
        inputs = [next(saved) for _ in chain.stages]
        kept = [Kept(next(saved), next(saved)) for _ in chain.stages]
        needs = chain.split(ctx.needs_input_grad[3:])
        gradients = [(None,) * stage.parameters for stage in chain.stages]
        with torch.autocast(grad.device.type, enabled=False):
            _make_inputs(chain, start, groups, inputs, kept)
            for number in reversed(range(start, len(groups))):
                needed = (number > start or ctx.needs_input_grad[1], *needs[number])
                words = (grad, inputs[number], groups[number], kept[number], needed)
                inputs[number] = kept[number] = None  # what is done with need not wait for the end
                grad, *gradients[number] = chain.stages[number].backward(*words)
        flat = [gradient for group in gradients for gradient in group]
        return None, grad, None, *flat


def _make_inputs(
    chain: _Chain, start: int, groups: list[Parameters], inputs: list[Tensor | None], kept: list[Kept]
) -> None:
    """Fill in the inputs that were not kept, and what else a stage's run gives."""
    if start == 0 and chain.maker is not None:
        inputs[0] = chain.maker.make(inputs[0])
    for number in range(start, len(groups) - 1):
        if inputs[number + 1] is None:
            words = (inputs[number], groups[number], kept[number])
            inputs[number + 1], kept[number] = chain.stages[number].run(*words)
