"""Settings of a training. An iteration is an optimizer step; periods are numbers of iterations."""

train = dict(
    output_dir="./output",
    init_checkpoint="",  # weights to start from
    device="cuda",
    max_iter=90000,
    log_period=20,
    eval_period=5000,
    checkpointer=dict(period=5000, max_to_keep=100),
    amp=dict(enabled=False),  # mixed precision
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
)
