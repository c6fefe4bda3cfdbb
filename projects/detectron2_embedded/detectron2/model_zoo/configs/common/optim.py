"""Optimizers. Whoever trains sets `params.model` to the model before one is built."""

from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params
from torch import optim

SGD = L(optim.SGD)(
    lr=0.02,  # for 16 images a step
    momentum=0.9,
    weight_decay=1e-4,
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0),
)

AdamW = L(optim.AdamW)(
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=0.1,
    params=L(get_default_optimizer_params)(base_lr="${..lr}", weight_decay_norm=0.0),
)
