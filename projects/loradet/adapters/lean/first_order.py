"""Backward passes that are written by hand have no backward pass of their own."""

import torch

from loradet.errors import UserError


def refuse_second_derivative() -> None:
    """Raise UserError where autograd records the backward pass that calls this, as for `create_graph=True`."""
    if torch.is_grad_enabled():
        raise UserError(
            "Lean LoRA cannot be differentiated twice (create_graph=True, gradient penalties, Hessians): build the "
            'model with lora(..., memory="plain").'
        )
