"""A detector as a torch.export program."""

import io
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from loradet.errors import UserError
from loradet.export.exportable.base import Exportable
from loradet.export.metadata import METADATA_FILE
from loradet.files import atomic_open

logger = logging.getLogger(__name__)

# In multiples of the size divisibility: every map of the pyramid has several positions on both axes, and no two
# dimensions are equal, so that torch.export takes none of them for a constant or for one another.
EXAMPLE = (9, 13)
_LEAST = 16  # pixels of such a multiple, where the backbone takes any size
_EXAMPLE_BATCH = 2
OPEN = ("batch", "height", "width")


def export_program(
    form: Exportable, fixed: tuple[int, int], dynamic: bool
) -> tuple[ExportedProgram, tuple[str, ...], dict[str, str]]:
    """The most open program that torch.export makes, its open dimensions, and why it fixed others.

    Args:
        form: of the detector.
        fixed: (height, width) of a program of fixed size, multiples of `form.multiple_of`.
        dynamic: whether to leave batch, height and width open.

    Raises:
        UserError: torch.export cannot.
    """
    attempts = [(), ("batch",), OPEN] if dynamic else [()]
    reasons: dict[str, str] = {}
    while True:
        open_dims = attempts.pop()
        try:
            program = _export_with(form, fixed, open_dims)
        except Exception as error:  # torch.export raises many kinds
            if not attempts:
                raise UserError(f"torch.export cannot export this model: {reason_of(error)}") from error
            lost = " and ".join(name for name in open_dims if name not in attempts[-1])
            logger.debug("torch.export cannot leave %s open", lost, exc_info=error)
            reasons[lost] = f"torch.export: {reason_of(error)}"
            continue
        # Nobody needs the pixels, nor the conditions that torch makes of them, which are stricter than needed.
        program.example_inputs = None
        return program, open_dims, reasons


def _export_with(form: Exportable, fixed: tuple[int, int], open_dims: Sequence[str]) -> ExportedProgram:
    divisor = form.multiple_of
    shapes: dict[int, Any] = {}
    size = fixed
    if "batch" in open_dims:
        shapes[0] = Dim("batch", min=1)
    if "height" in open_dims:
        shapes[2], shapes[3] = (divisor * Dim(name, min=2) for name in ("rows", "columns"))
        size = open_size(divisor)
    example = example_inputs(form, size, _EXAMPLE_BATCH if "batch" in open_dims else 1)
    dynamic_shapes = [shapes or None, {0: shapes[0]} if "batch" in open_dims else None][: len(example)]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torchvision's NMS uses an older name in torch
        return torch.export.export(form, example, dynamic_shapes=tuple(dynamic_shapes), strict=False)


def open_size(divisor: int) -> tuple[int, int]:
    """(height, width) of the example that a program of open size is made with."""
    rows, columns = EXAMPLE
    return max(divisor, _LEAST) * rows, max(divisor, _LEAST) * columns


def example_inputs(form: Exportable, size: tuple[int, int], batch: int) -> tuple[torch.Tensor, ...]:
    """Random images (batch, 3, *size), and their sizes where the form takes them."""
    images = torch.rand(batch, 3, *size) * 255
    return (images, torch.tensor([size] * batch)) if "sizes" in form.inputs else (images,)


def reason_of(error: BaseException) -> str:
    """The first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def smallest_size(run: Any, form: Exportable, divisor: int) -> list[int]:
    """The smallest (height, width) that a program takes: torch.export and backbones have conditions of their own.

    Args:
        run: takes what the form takes.
        divisor: sizes are multiples of it.

    Raises:
        UserError: it takes none of those that were tried.
    """
    for count in range(1, max(EXAMPLE) + 1):
        side = divisor * count
        try:
            with torch.no_grad():
                for height, width in ((side, side), (side, side + divisor), (side + divisor, side)):
                    inputs = example_inputs(form, (height, width), 1)
                    run(torch.zeros_like(inputs[0]), *inputs[1:])
        except (RuntimeError, AssertionError, UserError) as error:
            logger.debug("%d pixels are too few: %s", side, reason_of(error))
            continue
        return [side, side]
    raise UserError(f"The exported program takes none of the sizes up to {divisor * max(EXAMPLE)} pixels.")


def save_program(program: ExportedProgram, metadata: dict[str, Any], output: Path) -> None:
    """Write a `.pt2` file with its metadata."""
    output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(metadata, indent=2, allow_nan=False)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA_FILE: text})
    with atomic_open(output, "wb") as file:
        file.write(buffer.getbuffer())
