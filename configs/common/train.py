"""Defaults of a training run. `loradet.training.settings` says what each key means and has the remaining ones."""

train = dict(
    output_dir="work_dirs/run",
    init_checkpoint="",
    max_iter="12 epochs",
    seed=0,
    device="auto",
    amp=dict(enabled=False, dtype="bf16"),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False),
    accumulate=1,
    max_batch_per_gpu=None,
    clip_grad=dict(max_norm=None, norm_type=2.0),
    ema=dict(enabled=False, decay=0.999),
    log_period=20,
    eval_period="1 epochs",
    eval_splits=["val"],
    checkpointer=dict(period="1 epochs", max_to_keep=2),
    best=dict(metric="bbox/AP", mode="max"),
    early_stopping=dict(enabled=False, patience=5, min_delta=0.0),
)
