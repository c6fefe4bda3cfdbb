"""The dtype of mixed precision."""

import torch

DTYPES = ("bf16", "fp16", "auto")


def amp_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type of "bf16", "fp16" or "auto": bf16, but fp16 on GPUs that would only emulate it."""
    if name == "auto":
        emulated = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
        name = "fp16" if emulated else "bf16"
    return {"bf16": torch.bfloat16, "fp16": torch.float16}[name]
