"""Blood cells in BCCD's photographs, the project's small backbone at 256 pixels; two minutes on one CPU core.

Experiments differ in how `model.backbone.bottom_up` is adapted. Neck and head start as `pretrain_quickstart` left them
and train in all. `data.root` is a folder with annotations/{train,val,test}.json and images/{train,val,test}/.
"""

from ..custom_coco import data, dataloader, lr_multiplier, model, optimizer, train

data.name = "adapters_bccd"
data.root = "datasets/bccd"
data.classes = ["RBC", "WBC", "Platelets"]
data.image_size = 256
data.max_size = 342
dataloader.train.num_workers = 1
train.max_iter = 150
train.eval_period = 0
train.eval_splits = ["val", "test"]
train.checkpointer.period = 150
train.checkpointer.max_to_keep = 1
train.output_dir = "work_dirs/adapters_bccd"
