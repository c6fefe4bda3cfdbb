"""Takes the backbone's weights out of a detector's checkpoint."""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save

from loradet.backbones.weights import read_state_dict
from loradet.files import atomic_open


def export_backbone(
    checkpoint: Path,
    output: Path,
    *,
    prefix: str = "backbone.bottom_up.net.",
    dtype: torch.dtype = torch.float16,
) -> str:
    """Write the tensors under `prefix` as safetensors, and their sha256 beside them as `<output>.sha256`.

    Args:
        checkpoint: a detector's weights.
        output: file that `TimmBackbone(weights=…)` takes.
        prefix: what to take, and to cut off the names.
        dtype: of the floating-point tensors.

    Returns:
        The sha256.

    Raises:
        ValueError: the checkpoint has nothing under `prefix`, or a value that `dtype` cannot hold.
    """
    state = {k.removeprefix(prefix): v for k, v in read_state_dict(checkpoint).items() if k.startswith(prefix)}
    if not state:
        raise ValueError(f"{checkpoint} has no tensor under {prefix!r}.")
    tensors = {k: v.to(dtype).contiguous() if v.is_floating_point() else v for k, v in state.items()}
    if overflowed := [k for k, v in tensors.items() if not torch.isfinite(v).all()]:
        raise ValueError(f"{checkpoint}: {', '.join(overflowed[:5])} do not fit into {dtype}.")
    content = save(tensors)
    digest = hashlib.sha256(content).hexdigest()
    with atomic_open(output, "wb") as file:
        file.write(content)
    with atomic_open(output.with_name(output.name + ".sha256")) as file:
        file.write(f"{digest}  {output.name}\n")
    return digest
