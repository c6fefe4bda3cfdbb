"""Takes weights out of a detector's checkpoint: its backbone's, or all the others."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save

from loradet.backbones.weights import read_state_dict
from loradet.errors import UserError
from loradet.files import atomic_open, sha256
from loradet.tensors import check_tensors


def export_weights(
    checkpoint: Path,
    output: Path,
    *,
    prefix: str = "backbone.bottom_up.net.",
    rest: bool = False,
    dtype: torch.dtype = torch.float16,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write some of a checkpoint's tensors as safetensors, and their sha256 beside them as `<output>.sha256`.

    Args:
        checkpoint: a detector's weights.
        output: file to write.
        prefix: take the tensors under it and cut it off their names, as `TimmBackbone(weights=…)` wants them.
        rest: take all other tensors instead, under their own names, as `train.init_checkpoint` wants them.
        dtype: of the floating-point tensors.
        metadata: texts for the file's header.

    Returns:
        The sha256.

    Raises:
        ValueError: the checkpoint has nothing under `prefix`, or a value that `dtype` cannot hold.
    """
    state = read_state_dict(checkpoint)
    below = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not below:
        raise UserError(f"{checkpoint} has no tensor under {prefix!r}.")
    taken = {k: v for k, v in state.items() if not k.startswith(prefix)} if rest else below
    check_tensors(taken, checkpoint)
    tensors = {k: v.to(dtype).contiguous() if v.is_floating_point() else v for k, v in taken.items()}
    if overflowed := [k for k, v in tensors.items() if not torch.isfinite(v).all()]:
        raise UserError(f"{checkpoint}: {', '.join(overflowed[:5])} do not fit into {dtype}.")
    content = save(tensors, dict(metadata) if metadata else None)
    with atomic_open(output, "wb") as file:
        file.write(content)
    digest = sha256(output)
    with atomic_open(output.with_name(output.name + ".sha256")) as file:
        file.write(f"{digest}  {output.name}\n")
    return digest
