"""What the factorial shares: the quickstart's detector, LoRA on a small pretrained backbone, one pass over 800 scenes.

Learning rate and batch size come from the study's grid, the optimizer from the files beside this one. The number of
images that a run sees is the same for every batch size. About a minute on one CPU core.
"""

from ...common.schedule import multistep_70_90 as lr_multiplier
from ...quickstart import data, dataloader, model, train

data.name = "vim_ofat_mini"
data.root = "datasets/synthetic_mini"
dataloader.train.dataset.filter_empty = False
dataloader.train.total_batch_size = None
lr_multiplier.iterations = 5
lr_multiplier.max_fraction = 1.0
train.max_iter = "1 epochs"
train.eval_period = "0.5 epochs"
train.eval_splits = ["val", "test"]
train.checkpointer.period = "1 epochs"
train.checkpointer.max_to_keep = 1
train.best.metric = "bbox/AP50"
train.log_period = 5
train.output_dir = "work_dirs/vim_ofat_mini"
