"""What each adapter buys on real images: BCCD's blood cells, one small backbone, three seeds."""

from loradet.experiments.study import Entry, Study

HERE = "configs/adapters_bccd"
BOTTOM_UP = "model.backbone.bottom_up"


def entry(id: str, config: str, title: str, objective: str, *overrides: str, against: str = "bccd_probe") -> Entry:
    """An entry with what is the same in all of them."""
    baselines = () if id == against else (against,)
    same = dict(seeds=(0, 1, 2), splits=("val", "test"), baselines=baselines)
    words = tuple(f"{BOTTOM_UP}.{word}" for word in overrides)
    return Entry(id=id, config=f"{HERE}/{config}.py", title=title, objective=objective, overrides=words, **same)


study = Study(
    name="adapters_bccd",
    title="Adapters on BCCD's blood cells",
    labels={"ConvNeXt-Atto + FPN + RetinaNet": "ConvNeXt-Atto + narrow FPN + RetinaNet"},
    entries=(
        entry("bccd_probe", "linear_probe", "Linear probe", "Frozen features alone."),
        entry("bccd_norms", "norms", "Norms", "The fewest parameters: norms."),
        entry("bccd_biases", "biases", "Biases", "The fewest parameters: biases (BitFit)."),
        entry("bccd_lora_r4", "lora", "LoRA r=4", "A low rank.", "rank=4", "alpha=8.0"),
        entry("bccd_lora_r16", "lora", "LoRA r=16", "The study's rank."),
        entry(
            *("bccd_rslora_r16", "lora", "rsLoRA r=16", "The same rank, scaled by alpha / √rank."),
            "variant=rslora",
            "alpha=16.0",
            against="bccd_lora_r16",
        ),
        entry(
            *("bccd_dora_r16", "lora", "DoRA r=16", "The same rank, lengths of rows trained besides."),
            "variant=dora",
            against="bccd_lora_r16",
        ),
        entry(
            *("bccd_pissa_r16", "lora", "PiSSA r=16", "The same rank, from the principal part."),
            "variant=pissa",
            against="bccd_lora_r16",
        ),
        entry(
            *("bccd_lora_plus_r16", "lora_plus", "LoRA+ r=16", "The same rank, a higher rate for B."),
            against="bccd_lora_r16",
        ),
        entry("bccd_mona", "mona", "Mona, width 54", "Filters of three sizes, as many parameters as LoRA r=16."),
        entry("bccd_adaptformer", "adaptformer", "AdaptFormer, width 79", "A parallel bottleneck, as many parameters."),
        entry("bccd_partial", "partial", "Stage 3 unfrozen", "Over half of the backbone trains."),
        entry("bccd_full", "full", "Full fine-tuning", "What training everything gives."),
    ),
)
