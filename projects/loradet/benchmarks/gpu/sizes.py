"""How large the models and batches are, and how long each measurement may take."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Attributes:
    matrix: side of the square matrices.
    copy_mib: of a copied block.
    image: side of RetinaNet's images, pixels.
    batch: RetinaNet's images a step.
    convnext, vit: timm's names in place of the configs' own; None: the configs' own.
    retinanet: further keys of its config.
    detr_image: (height, width) of DETR's images, pixels.
    detr_batch: DETR's images a step.
    detr: further keys of its config.
    scan: batch, channels, states, steps of the selective scan.
    files: JPEG files for the loader.
    file_image: (height, width) of those, pixels.
    workers: of the loader, where there are as many cores.
    pairs: at most, of two sides in turn; steps, of one.
    seconds: of a measurement, roughly; two pairs are always measured.
    warmup: steps before it.
    """

    matrix: int
    copy_mib: int
    image: int
    batch: int
    convnext: str | None = None
    vit: str | None = None
    retinanet: tuple[str, ...] = ()
    detr_image: tuple[int, int]
    detr_batch: int
    detr: tuple[str, ...] = ()
    scan: tuple[int, int, int, int]
    files: int
    file_image: tuple[int, int]
    workers: int
    pairs: int
    seconds: float
    warmup: int


FULL = Sizes(
    matrix=8192,
    copy_mib=1024,
    image=800,
    batch=16,
    detr_image=(960, 1536),
    detr_batch=8,
    scan=(8, 384, 16, 1600),  # of a block of ViM-Tiny at 640×640
    files=256,
    file_image=(800, 1000),
    workers=16,
    pairs=50,
    seconds=10.0,
    warmup=3,
)
SMALL = Sizes(
    matrix=64,
    copy_mib=1,
    image=64,
    batch=2,
    convnext="test_convnext",
    vit="test_vit",
    retinanet=("model.backbone.out_channels=16", "model.head.conv_dims=[16]"),
    detr_image=(64, 96),
    detr_batch=1,
    detr=(
        "model.num_queries=10",
        "model.transformer.num_encoder_layers=1",
        "model.transformer.num_decoder_layers=1",
        "model.transformer.dim_feedforward=64",
    ),
    scan=(1, 8, 2, 32),
    files=4,
    file_image=(64, 64),
    workers=1,
    pairs=2,
    seconds=0.0,
    warmup=1,
)
