"""FCOS's inference as a function of one tensor."""

from torch import Tensor

from loradet.export.exportable.base import per_anchor
from loradet.export.exportable.retinanet import DenseExportable


class ExportableFCOS(DenseExportable):
    """See `Exportable`. A score is the geometric mean of the class's and of the centerness."""

    def predictions(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """As of the base class."""
        logits, deltas, centerness = self.model.head(features)
        scores = [
            (per_anchor(x, self.model.num_classes).float().sigmoid() * per_anchor(y, 1).float().sigmoid()).sqrt()
            for x, y in zip(logits, centerness)
        ]
        return scores, [per_anchor(x, 4) for x in deltas]
