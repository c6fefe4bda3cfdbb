"""A detector small enough for tests, on synthetic scenes; `data.root` and `train.output_dir` come as overrides."""

from detectron2.config import LazyCall as L

from loradet.adapters import freeze, lora
from loradet.backbones import TimmBackbone

from ...configs.common.backbones import slim
from ...configs.common.models.retinanet_timm import model
from ...configs.common.optim import AdamW as optimizer
from ...configs.common.schedule import cosine as lr_multiplier
from ...configs.common.synthetic import data, dataloader
from ...configs.common.train import train

slim(model, channels=16, convs=1)
model.backbone.bottom_up = L(lora)(
    module=L(freeze)(
        module=L(TimmBackbone)(
            model_name="convnext_atto",
            out_features=["stage1", "stage2", "stage3"],
            depths=(1, 1, 1, 1),
            dims=(8, 16, 24, 32),
        ),
        unfreeze=[],
    ),
    targets=["mlp.fc1", "mlp.fc2"],
    rank=2,
    alpha=4.0,
    dropout=0.1,
    freeze_base=True,
)
data.name = "tiny"
data.image_size = 64
data.max_size = 64
dataloader.train.total_batch_size = 4
dataloader.train.num_workers = 1
dataloader.val.num_workers = 0
dataloader.test.num_workers = 0
optimizer.lr = 1e-3
lr_multiplier.iterations = 2
train.allow_random_frozen = True
train.max_iter = 8
train.eval_period = 4
train.checkpointer.period = 2
train.checkpointer.max_to_keep = 3
train.log_period = 1
