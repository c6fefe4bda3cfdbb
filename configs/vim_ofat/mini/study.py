"""What one factor at a time cannot tell: learning rate, optimizer and batch size, every combination of them.

On synthetic scenes and the small detector of the quickstart: without its weights a Vision Mamba has random features,
which are not worth freezing. Its numbers speak of this detector alone.
"""

from loradet.experiments.study import Scenes, Study, expand_grid

HERE = "configs/vim_ofat/mini"

study = Study(
    name="vim_ofat/mini",
    title="A full factorial in miniature, on synthetic scenes",
    scenes=Scenes(root="datasets/synthetic_mini", size=192, counts={"train": 800, "val": 100, "test": 100}),
    factors={"lr": "optimizer.lr", "batch": "dataloader.train.total_batch_size", "optimizer": "optimizer._target_"},
    labels={"RMSprop": "RMSProp", "ConvNeXt-Atto + FPN + RetinaNet": "ConvNeXt-Atto + narrow FPN + RetinaNet"},
    entries=tuple(
        expand_grid(
            axes={
                "lr": [0.001, 0.01],
                "optimizer": {"AdamW": {"file": "adamw"}, "SGD": {"file": "sgd"}, "RMSProp": {"file": "rmsprop"}},
                "batch": [8, 32],
            },
            template=dict(
                id="mini_lr{lr}_bs{batch}_{file}",
                config=f"{HERE}/{{file}}.py",
                title="LR={lr}, BS={batch}, {optimizer}",
                objective="Main effects and interactions.",
                overrides=["optimizer.lr={lr}", "dataloader.train.total_batch_size={batch}"],
                seeds=[0, 1],
                splits=["val", "test"],
                metrics=["coco/bbox_mAP", "coco/bbox_mAP_50"],
            ),
        )
    ),
)
