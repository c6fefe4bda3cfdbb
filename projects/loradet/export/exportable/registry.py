"""Which detector has which exportable form."""

import importlib

from torch import nn

from loradet.errors import UserError
from loradet.export.exportable.base import Exportable

# Class of the detector: module and class of its form. By name, so that nothing is imported for a detector of another
# kind; subclasses have the form of what they derive from.
FORMS = {
    "detectron2.modeling.meta_arch.retinanet.RetinaNet": "loradet.export.exportable.retinanet.ExportableRetinaNet",
    "detectron2.modeling.meta_arch.fcos.FCOS": "loradet.export.exportable.fcos.ExportableFCOS",
    "detectron2.modeling.meta_arch.rcnn.GeneralizedRCNN": "loradet.export.exportable.rcnn.ExportableRCNN",
    "loradet.detectors.detr.meta_arch.DETR": "loradet.export.exportable.detr.ExportableDETR",
    "loradet.detectors.library.meta_arch.TransformersDetector": (
        "loradet.export.exportable.library.ExportableTransformersDetector"
    ),
}


def exportable(model: nn.Module, image_format: str = "RGB") -> Exportable:
    """The exportable form of a detector.

    Args:
        model: a built detector without LoRA layers, in eval mode.
        image_format: channel order that it takes, where it does not say so itself.

    Raises:
        UserError: there is no form for its class, or for the parts that it has; or it is in training mode.
    """
    for base in type(model).__mro__:
        if (form := FORMS.get(f"{base.__module__}.{base.__qualname__}")) is not None:
            module, _, name = form.rpartition(".")
            return getattr(importlib.import_module(module), name)(model=model, image_format=image_format)
    known = ", ".join(name.rpartition(".")[2] for name in FORMS)
    raise UserError(f"This model is a {type(model).__name__}, which cannot be exported; these can: {known}.")
