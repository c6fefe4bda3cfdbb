"""The tiny detector with COCO's metrics and calibration in one evaluation, and the speed of inference at the end."""

from detectron2.config import LazyCall as L
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators

from loradet.evaluation import CalibrationEvaluator

from .tiny import data, dataloader, lr_multiplier, model, optimizer, train

model.test_score_thresh = 0.0
dataloader.evaluator = L(DatasetEvaluators)(
    evaluators=[
        L(COCOEvaluator)(dataset_name="???", use_fast_impl=False),
        L(CalibrationEvaluator)(dataset_name="???", bins=10),
    ]
)
train.efficiency = dict(enabled=True, steps=3, warmup=1)
