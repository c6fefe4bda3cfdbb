"""DETR as a Detectron2 model."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import move_device_like
from detectron2.modeling import Backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn

from loradet.detectors.detr.box_iou import to_centre_size, to_xyxy
from loradet.detectors.detr.categories import CategoryIds
from loradet.detectors.detr.criterion import SetCriterion
from loradet.detectors.detr.features import DetrBackbone, fixed_batch_size, pad_batch, padding_mask
from loradet.detectors.detr.matcher import DetrTargets, NonFiniteCostError
from loradet.detectors.detr.transformer import DetrTransformer
from loradet.errors import UserError
from loradet.event_storage import put_tensors


class DETR(nn.Module):
    """Detection as prediction of a set: https://arxiv.org/abs/2005.12872.

    Names of modules and weights are those of the published models, whose files load as they are. Images of different
    sizes share a batch; what is padding is masked in every attention.

    Attributes:
        num_classes: K, the classes of the data.
        num_queries: Q, the most detections of an image.
        pad_to: (height, width) of landscape batches, pixels; None: as large as the images need.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        in_feature: str | None,
        position_embedding: nn.Module,
        transformer: DetrTransformer,
        criterion: SetCriterion,
        num_classes: int,
        num_queries: int = 100,
        aux_loss: bool = True,
        categories: CategoryIds | None = None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
        pad_to: Sequence[int] | None = None,
    ) -> None:
        """
        Args:
            backbone: any Detectron2 backbone; it is kept as `backbone.0`.
            in_feature: name of the map to work on; None: the only one that the backbone gives.
            position_embedding: takes the padding (N, h, w), gives (N, C, h, w).
            transformer: between map and predictions.
            criterion: losses of the predictions.
            num_classes: K.
            num_queries: Q; images may have more objects, which then stay unmatched.
            aux_loss: train predictions of every decoder layer, not of the last one alone.
            categories: which logit stands for which class, where they are not the contiguous ids themselves, as in the
                published models with 91 logits: `coco_categories()`.
            pixel_mean, pixel_std: per channel of `input_format`, in the range of the images.
            input_format: channel order that the images come in, for those who load or paint them.
            pad_to: (height, width) in pixels that batches are padded to, or (width, height) where the images need it;
                see `fixed_batch_size`. Batches of few different sizes are faster on some devices, and their memory is
                known. DETR's own attention masks what is padded; a backbone sees it as pixels of the mean colour. None:
                as large as the images need.

        Raises:
            ValueError: the backbone has no such map (or several, and none is named), `categories` is of another number
                of classes, the position embedding is of another width, no query, or `pad_to` is not two sizes.
        """
        super().__init__()
        shapes = backbone.output_shape()
        if in_feature is None and len(shapes) == 1:
            (in_feature,) = shapes
        if in_feature not in shapes:
            raise UserError(f"in_feature={in_feature!r}: the backbone gives {', '.join(shapes)}.")
        if categories is not None and len(categories) != num_classes:
            raise UserError(f"num_classes={num_classes}, but categories maps {len(categories)} classes.")
        if (half := getattr(position_embedding, "num_pos_feats", None)) not in (None, transformer.hidden_dim / 2):
            raise UserError(
                f"position_embedding.num_pos_feats={half}: expected {transformer.hidden_dim // 2}, half of "
                f"transformer.hidden_dim={transformer.hidden_dim}."
            )
        if num_queries < 1:
            raise UserError(f"num_queries={num_queries}: at least 1 is needed.")
        if pad_to is not None and (len(pad_to) != 2 or min(pad_to) < 1):
            raise UserError(f"pad_to={list(pad_to)}: expected (height, width) in pixels, or None.")
        hidden_dim = transformer.hidden_dim
        num_logits = num_classes if categories is None else categories.num_logits
        self.num_classes = num_classes
        self.num_queries = num_queries
        self.in_feature = in_feature
        self.aux_loss = aux_loss
        self.categories = categories
        self.input_format = input_format
        self.pad_to = None if pad_to is None else (int(pad_to[0]), int(pad_to[1]))
        self.criterion = criterion
        self.transformer = transformer
        self.class_embed = nn.Linear(hidden_dim, num_logits + 1)
        self.bbox_embed = BoxHead(hidden_dim)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.input_proj = nn.Conv2d(shapes[in_feature].channels, hidden_dim, kernel_size=1)
        self.backbone = DetrBackbone(backbone)
        self.position_embedding = position_embedding
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(list(values)).view(-1, 1, 1), persistent=False)
        logits = None if categories is None else torch.tensor(categories.logits)
        self.register_buffer("class_logits", logits, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model is, and its inputs are moved to."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor] | list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: a dict per image: `image` (C, H, W) in the range of `pixel_mean`; in training `instances`
                with `gt_boxes` (XYXY, pixels of that image) and `gt_classes`; else `height` and `width` of the output
                where they differ from the image's.

        Returns:
            Training: weighted losses by name; `class_error` and `cardinality_error` go to the event storage. Else, a
            dict per image whose `instances` hold `pred_boxes` (XYXY, pixels of the output, clipped), `scores` and
            `pred_classes`, a detection for each query whose box is not empty.

        Raises:
            ValueError: an image without `instances` in training, a class out of range, boxes that are not finite, or
                an image larger than `pad_to`.
            NonFiniteCostError: in training, predictions are not finite.
        """
        images = self.preprocess_image(batched_inputs)
        padded = tuple(images.tensor.shape[-2:])
        features = self.backbone(images.tensor)[self.in_feature]
        padding = padding_mask(images.image_sizes, padded, features.shape[-2:], self.device)
        is_padded = any(tuple(size) != padded for size in images.image_sizes)
        logits, boxes = self.predict(features, padding, is_padded=is_padded)
        if self.training:
            return self._losses(logits, boxes, batched_inputs)
        results = self.detections(logits[-1], boxes[-1], images.image_sizes)
        return [
            {"instances": detector_postprocess(result, item.get("height", size[0]), item.get("width", size[1]))}
            for result, item, size in zip(results, batched_inputs, images.image_sizes)
        ]

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise the images and pad them with zeros to one batch, of the size that `pad_to` and the backbone want.

        Raises:
            ValueError: an image is larger than `pad_to`.
        """
        images = [move_device_like(item["image"], self.pixel_mean) for item in batched_inputs]
        batch = ImageList.from_tensors(
            [(image - self.pixel_mean) / self.pixel_std for image in images],
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )
        if self.pad_to is None:
            return batch
        names = [item.get("file_name", "an image") for item in batched_inputs]
        size = fixed_batch_size(batch.image_sizes, self.pad_to, names)
        return pad_batch(batch, size, self.backbone.size_divisibility)

    def predict(
        self, features: torch.Tensor, padding: torch.Tensor, *, is_padded: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """From the backbone's map to predictions.

        Args:
            features: (N, channels, h, w).
            padding: (N, h, w) bool, True for padding.
            is_padded: False says that `padding` has no True, and attention goes without mask, which is faster.

        Returns:
            Logits (L, N, Q, K + 1), "no object" last, and boxes (L, N, Q, 4) in float32, (centre x, centre y, width,
            height) as fractions of the unpadded image. L decoder layers, the last one last; L = 1 in inference and
            without `aux_loss`.
        """
        decoded, _ = self.transformer(
            self.input_proj(features),
            self.position_embedding(padding),
            self.query_embed.weight,
            padding if is_padded else None,
            all_layers=self.aux_loss and self.training,
        )
        return self.class_embed(decoded), self.bbox_embed(decoded).float().sigmoid()

    def detections(
        self, pred_logits: torch.Tensor, pred_boxes: torch.Tensor, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """The best class of every query, and its box in pixels.

        Args:
            pred_logits: (N, Q, K + 1).
            pred_boxes: (N, Q, 4) as `predict` gives them.
            image_sizes: (height, width) to scale the boxes to.

        Returns:
            Instances with `pred_boxes` (XYXY, not clipped), `scores` and `pred_classes`, in the order of the queries.
        """
        probabilities = pred_logits.float().softmax(-1)
        if self.class_logits is None:
            probabilities = probabilities[..., :-1]
        else:
            probabilities = probabilities[..., self.class_logits]
        scores, classes = probabilities.max(-1)
        sides = torch.tensor([(width, height) for height, width in image_sizes], device=pred_boxes.device)
        boxes = to_xyxy(pred_boxes) * sides.repeat(1, 2)[:, None]
        return [
            Instances(tuple(size), pred_boxes=Boxes(boxes[i]), scores=scores[i], pred_classes=classes[i])
            for i, size in enumerate(image_sizes)
        ]

    def _losses(
        self, pred_logits: torch.Tensor, pred_boxes: torch.Tensor, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, torch.Tensor]:
        targets = [self._target(item) for item in batched_inputs]
        try:
            found = self.criterion(pred_logits, pred_boxes, targets)
        except NonFiniteCostError as error:
            if error.image is None:
                raise
            name = batched_inputs[error.image].get("file_name", "of unknown file")
            raise NonFiniteCostError(f"{error} The image is {name}.", error.image) from error
        put_tensors(found.metrics)
        return self.criterion.weighted(found.losses)

    def _target(self, item: dict[str, Any]) -> DetrTargets:
        if "instances" not in item:
            raise UserError(
                f"Training needs `instances` with every image; the input {item.get('file_name', '')} has only "
                f"{', '.join(item)}. Use DatasetMapper(is_train=True), or call model.eval()."
            )
        instances = item["instances"]
        classes = instances.gt_classes
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < self.num_classes:
            raise UserError(
                f"gt_classes of {item.get('file_name', 'an image')} are in {int(classes.min())}..{int(classes.max())}, "
                f"expected 0..{self.num_classes - 1}: contiguous ids, not those of the annotation file."
            )
        height, width = instances.image_size
        boxes = instances.gt_boxes.tensor
        if not boxes.isfinite().all():
            raise UserError(f"gt_boxes of {item.get('file_name', 'an image')} hold NaN or infinity.")
        boxes = boxes.to(self.device, torch.float32)
        boxes = to_centre_size(boxes / boxes.new_tensor([width, height, width, height]))
        classes = classes.to(self.device)
        return DetrTargets(classes if self.class_logits is None else self.class_logits[classes], boxes)


class BoxHead(nn.Module):
    """Three linear layers, with ReLU between them: four numbers a query, before the sigmoid."""

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(hidden_dim, width) for width in (hidden_dim, hidden_dim, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., hidden_dim) to (..., 4)."""
        first, second, last = self.layers
        return last(second(first(x).relu()).relu())
