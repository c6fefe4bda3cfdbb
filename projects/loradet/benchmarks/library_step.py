"""Measures training steps of a detector of transformers against the library's own model, in interleaved pairs.

D-FINE small with its own backbone, HGNetV2-B0, or another kind with the library's defaults. Both sides have the same
weights, images and random numbers, and their losses are found equal first; then each is trained by its own AdamW. The
library is given images that are normalised and boxes that are converted already.

    python -m loradet.benchmarks.library_step --size 256 --batch 2 --pairs 50
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from tabulate import tabulate
from torch import nn

from loradet.benchmarks.arguments import refuse_below_one
from loradet.benchmarks.training_step import Batch, RandomImages
from loradet.benchmarks.turns import interleave, ratio_figures
from loradet.detectors.library.canvas import labels_of
from loradet.detectors.library.extra import transformers
from loradet.detectors.library.meta_arch import TransformersDetector
from loradet.errors import errors_in_one_line

CLASSES, OBJECTS, PREPARED = 10, 10, 4
_HGNET_B0: dict[str, Any] = {
    "model_type": "hgnet_v2",
    "stem_channels": [3, 16, 16],
    "stage_in_channels": [16, 64, 256, 512],
    "stage_mid_channels": [16, 32, 64, 128],
    "stage_out_channels": [64, 256, 512, 1024],
    "hidden_sizes": [64, 256, 512, 1024],
    "stage_num_blocks": [1, 1, 2, 1],
    "stage_downsample": [False, True, True, True],
    "stage_light_block": [False, False, True, True],
    "stage_kernel_size": [3, 3, 5, 5],
    "stage_numb_of_layers": [3, 3, 3, 3],
    "use_learnable_affine_block": True,
    "out_indices": [2, 3, 4],
}
DFINE_SMALL: dict[str, Any] = {
    "backbone_config": _HGNET_B0,
    "encoder_in_channels": [256, 512, 1024],
    "hidden_expansion": 0.5,
    "depth_mult": 0.34,
    "decoder_layers": 3,
    "decoder_n_points": [3, 6, 3],
}


def benchmark_step(
    family: str = "d_fine",
    options: Mapping[str, Any] | None = None,
    *,
    size: int = 256,
    batch: int = 2,
    pairs: int = 50,
    warmup: int = 3,
) -> dict[str, Any]:
    """Median seconds of the process a step of both sides, and their ratio by `ratio_figures`.

    Args:
        family: kind of detector.
        options: of the library's config; None: D-FINE small's.
        size: side of the square images, pixels.
        batch: images a step.
        pairs, warmup: as of `interleave`.

    Raises:
        RuntimeError: losses of the two sides differ.
    """
    torch.manual_seed(0)
    detector = TransformersDetector(
        family=family,
        num_classes=CLASSES,
        options=DFINE_SMALL if options is None else options,
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[255.0, 255.0, 255.0],
    ).train()
    library = _library_model(detector).train()
    loader = iter(RandomImages(size, size, OBJECTS).loader(batch))
    steps = [(number, images, _prepared(detector, images)) for number, images in zip(range(PREPARED), loader)]
    ours, theirs = (
        _step(detector, lambda step: detector(step[1])),
        _step(library, lambda step: _losses(library, step[2])),
    )
    for step in steps:
        mine, other = ours(step), theirs(step)
        if not torch.allclose(mine, other, rtol=1e-4):
            raise RuntimeError(f"The losses of one step differ: {mine.item()} and {other.item()} of the library.")
    seconds = interleave(ours, theirs, steps, pairs=pairs, warmup=warmup, clock=time.process_time)
    return {
        "ours_s": statistics.median(seconds[0]),
        "library_s": statistics.median(seconds[1]),
        **ratio_figures(*seconds),
    }


def _library_model(detector: TransformersDetector) -> nn.Module:
    """The library's own model with the same weights."""
    network = getattr(transformers(), detector.family.model)(detector.network.config)
    place = next(path for path in detector.family.backbone_paths if path in dict(network.named_modules()))
    state = detector.network.state_dict()
    state |= {f"{place}.{name.removeprefix('net.')}": value for name, value in detector.backbone.state_dict().items()}
    network.load_state_dict(state)
    return network


def _prepared(detector: TransformersDetector, images: Batch) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    pixels = detector.preprocess_image(images).tensor
    return pixels, labels_of(images, tuple(pixels.shape[-2:]), CLASSES, pixels.device)


def _losses(library: nn.Module, prepared: tuple[torch.Tensor, Any]) -> dict[str, torch.Tensor]:
    return {"loss": library(pixel_values=prepared[0], labels=prepared[1]).loss}


def _step(model: nn.Module, losses: Callable[[Any], dict[str, torch.Tensor]]) -> Callable[[Any], torch.Tensor]:
    """A plain loop's step: losses, gradients, AdamW."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)

    def run(step: Any) -> torch.Tensor:
        torch.manual_seed(step[0])  # denoising queries are random
        optimizer.zero_grad(set_to_none=True)
        with EventStorage():
            total = sum(losses(step).values())
        total.backward()
        optimizer.step()
        return total.detach()

    return run


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m loradet.benchmarks.library_step`; prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the square images, pixels (256)")
    parser.add_argument("--batch", type=int, default=2, help="images a step (2)")
    parser.add_argument("--pairs", type=int, default=50, help="measured pairs of steps (50)")
    options = parser.parse_args(arguments)
    refuse_below_one(parser, vars(options))
    with errors_in_one_line():
        figures = benchmark_step(size=options.size, batch=options.batch, pairs=options.pairs)
    print(tabulate(figures.items(), tablefmt="plain", floatfmt=".4g"))


if __name__ == "__main__":
    main()
