"""OFAT on Vision Mamba: learning rate, batch size, optimizer and epochs, one at a time, for a frozen ViM-Tiny."""

from loradet.experiments.study import Entry, Reported, Scenes, Smoke, Study

HERE = "configs/vim_ofat"
BASELINE = "ofat_baseline_lr0.001_bs8_adamw_ep100"
# Trainable parameters of every experiment in millions (one class).
TRAINABLE = {"backbone": 0.0, "neck": 2.665, "head": 46.825, "all": 49.490, "classes": 1}


def entry(id: str, title: str, objective: str, **fields) -> Entry:
    """An entry whose config has its name, or the end of it; all but the first are compared with that one."""
    return Entry(
        id=id,
        config=f"{HERE}/{id.replace('ofat_baseline', 'baseline')}.py",
        title=title,
        objective=objective,
        baselines=() if id == BASELINE else (BASELINE,),
        splits=("val", "test"),
        metrics=("coco/bbox_mAP", "coco/bbox_mAP_50"),
        checks={"trainable": TRAINABLE},
        **fields,
    )


study = Study(
    name="vim_ofat",
    title="OFAT on a frozen Vision Mamba",
    source="OFAT Experiments for Vision Mamba (ViM-Tiny) Fine-Tuning, version 1.0, 2025-02-02: a plan, without results",
    factors={
        "lr": "optimizer.lr",
        "batch": "dataloader.train.total_batch_size",
        "optimizer": "optimizer._target_",
        "epochs": "train.max_iter",
    },
    labels={
        "RMSprop": "RMSProp",
        "linear probe": "frozen backbone",
        "ckpts/vim_tiny_pretrained.pth": "vim_tiny_pretrained.pth (ImageNet with labels)",
    },
    smoke=Smoke(
        train_images=8,
        val_images=4,
        epochs=4,
        overrides=(
            "train.log_period=1",
            "lr_multiplier.iterations=1",
            "data.image_size=128",
            "dataloader.train.num_workers=0",
            "dataloader.val.num_workers=0",
            "model.backbone.net.module.weights=null",
            "train.allow_random_frozen=True",
            "model.backbone.net.module.embed_dim=32",
            "model.backbone.net.module.depth=2",
            "model.backbone.out_channels=32",
            "model.proposal_generator.post_nms_topk=[64,64]",
            "model.roi_heads.batch_size_per_image=64",
            "model.roi_heads.box_predictors.2.test_score_thresh=0.0",
            *(f"model.roi_heads.box_heads.{stage}.conv_dims=[32]" for stage in range(3)),
            *(f"model.roi_heads.box_heads.{stage}.fc_dims=[64]" for stage in range(3)),
            *(f"model.roi_heads.box_predictors.{stage}.input_shape.channels=64" for stage in range(3)),
        ),
        other_model=True,
    ),
    stand_in=Scenes(
        root="datasets/synthetic_roboflow",
        style="shapes",
        size=128,
        layout="roboflow",
        max_objects=3,
        counts={"train": 8, "val": 4, "test": 4},
    ),
    stand_in_overrides=("data.classes=null",),
    entries=(
        entry(BASELINE, "Baseline (LR=0.001, BS=8, AdamW, 100ep)", "What the others are compared with."),
        entry("ofat_lr0.01_bs8_adamw_ep100", "LR=0.01", "Faster convergence, at the risk of instability?"),
        entry("ofat_lr0.005_bs8_adamw_ep100", "LR=0.005", "Speed and stability in balance?"),
        entry("ofat_lr0.001_bs16_adamw_ep100", "BS=16", "More stable gradients?"),
        entry("ofat_lr0.001_bs32_adamw_ep100", "BS=32", "More stable gradients still?"),
        entry("ofat_lr0.001_bs8_sgd_ep100", "SGD", "Better minima, in more epochs?"),
        entry("ofat_lr0.001_bs8_rmsprop_ep100", "RMSProp", "Between AdamW and SGD?"),
        entry("ofat_lr0.001_bs8_adamw_ep150", "Epochs=150", "A better head, or overfitting?"),
        entry("ofat_lr0.001_bs8_adamw_ep200", "Epochs=200", "A better head, or overfitting?"),
        entry(
            "ofat_baseline_lr0.001_bs2_adamw_ep100",
            "Baseline as it was run (BS=2)",
            "What fits 8 GB without accumulation.",
            reported=(Reported(split="val", metrics={"cost/peak_memory_gb": 4.5}),),
            note="Published are about 4.5 GB of memory and 5 to 6 hours on an RTX 3070, and no metric.",
        ),
    ),
)
