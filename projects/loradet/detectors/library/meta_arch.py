"""A detector of transformers as a Detectron2 model."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.modeling import Backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from loradet.detectors.detr.box_iou import to_xyxy
from loradet.detectors.detr.matcher import NonFiniteCostError
from loradet.detectors.library.canvas import Canvas, Item, labels_of, names_of
from loradet.detectors.library.families import find_family
from loradet.detectors.library.losses import last_layer_distribution_loss, weighted_losses
from loradet.detectors.library.maps import choose_maps
from loradet.detectors.library.network import build_network
from loradet.detectors.library.published import published_classes
from loradet.errors import UserError

# What the library's matching says of predictions that are not finite.
_NOT_FINITE = re.compile(r"^boxes1 must be|invalid numeric entries")


class TransformersDetector(nn.Module):
    """A detector of the library transformers behind any Detectron2 backbone, or behind the library's own.

    Losses, outputs and post-processing are the library's. Padding is part of what these networks see, so in inference
    each image is padded for itself, to what the network needs, and what is found in it hangs on no other image.

    Attributes:
        num_classes: K, the classes of the data.
        backbone: ours, or the library's own (`LibraryBackbone`).
        network: the library's model; in the place of its backbone stands what hands over the maps.
        published_classes: names of the classes that `weights` were trained on, where there are K of them, so that the
            rows of the class heads were taken; None elsewhere, or where the file does not name them.
    """

    def __init__(
        self,
        *,
        family: str,
        num_classes: int,
        backbone: Backbone | None = None,
        in_features: Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
        weights: str | os.PathLike | None = None,
        load_weights: bool = True,
        last_layer_fgl: bool = False,
        max_detections_per_image: int | None = None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
        pad_to: Sequence[int] | None = None,
    ) -> None:
        """
        Args:
            family: `model_type` of the library: "d_fine" …; see `loradet.detectors.library.families`.
            num_classes: K.
            backbone: any Detectron2 backbone whose maps the decoder can use; None: the library's own.
            in_features: names of the maps to work on; None: all that the backbone gives.
            options: of the library's config, where they differ from its defaults; number of classes and what follows
                from the maps are not among them.
            weights: published weights to start from: a folder with `config.json` and `model.safetensors`, or a name on
                the Hugging Face hub (`owner/name`), whose files are taken from its cache or downloaded. `options` then
                change what that config says. A class head of another number of classes starts anew, and with
                `backbone` given, that of the file is passed over.
            load_weights: False: of `weights` take `config.json` alone, which says what the network is.
            last_layer_fgl: D-FINE's localization loss in the last decoder layer too, as its authors train it; without
                it losses are the library's.
            max_detections_per_image: None: as the library's post-processing, mostly as many as there are queries.
            pixel_mean, pixel_std: per channel of `input_format`, in the range of the images.
            input_format: channel order that the images come in, for those who load or paint them.
            pad_to: (height, width) in pixels that batches are padded to, or (width, height) where the images need it,
                in training and in inference; None: in training as large as the batch needs, in inference as the image.

        Raises:
            UserError: no such family or option, the extra is absent, maps that the decoder cannot use, or weights that
                cannot be had or do not fit.
        """
        super().__init__()
        self.family = find_family(family)
        if last_layer_fgl and not self.family.has_distributions:
            raise UserError(f"last_layer_fgl=True is for detectors that refine distributions, and not for {family!r}.")
        self.num_classes = num_classes
        self.input_format = input_format
        self.last_layer_fgl = last_layer_fgl
        ours = None if backbone is None else choose_maps(backbone, in_features)
        if ours is not None:
            self.family.check_maps(ours)
        self.network, self._slot, own = build_network(
            self.family,
            num_classes=num_classes,
            options=options or {},
            maps=ours,
            weights=weights,
            load_weights=load_weights,
        )
        self.published_classes = published_classes(self.network.config, weights if load_weights else None)
        self.backbone = own if backbone is None else backbone
        self.maps = choose_maps(self.backbone, in_features) if ours is None else ours
        self.canvas = Canvas.of(
            self.backbone,
            self.maps,
            self.family,
            is_own=backbone is None,
            added_maps=self.family.added_maps(self.network.config),
            pad_to=pad_to,
        )
        self.max_detections_per_image = max_detections_per_image or self.family.max_detections
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(list(values)).view(-1, 1, 1), persistent=False)

    @property
    def pad_to(self) -> tuple[int, int] | None:
        """(height, width) in pixels that landscape batches are padded to; None: as large as the images need."""
        return self.canvas.pad_to

    @property
    def device(self) -> torch.device:
        """Where the model is, and its inputs are moved to."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[Item]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: a dict per image: `image` (C, H, W) in the range of `pixel_mean`; in training `instances`
                with `gt_boxes` (XYXY, pixels of that image) and `gt_classes`; else `height` and `width` of the output
                where they differ from the image's.

        Returns:
            Training: weighted losses by the library's names; their sum is what the library trains. Else, a dict per
            image whose `instances` hold `pred_boxes` (XYXY, pixels of the output, clipped), `scores` (falling) and
            `pred_classes`.

        Raises:
            UserError: an image without `instances` in training, a class out of range, boxes that are not finite, an
                image larger than `pad_to`, or one with fewer positions than queries.
            NonFiniteCostError: in training, predictions are not finite.
        """
        if self.training:
            return self._losses(batched_inputs)
        found: list[dict[str, Instances]] = [{}] * len(batched_inputs)
        for places in self.canvas.groups(batched_inputs):
            items = [batched_inputs[place] for place in places]
            images = self.preprocess_image(items)
            output = self.run_network(images.tensor, items)
            results = self.detections(output.logits, output.pred_boxes, images)
            for place, item, result in zip(places, items, results):
                height, width = result.image_size
                size = item.get("height", height), item.get("width", width)
                found[place] = {"instances": detector_postprocess(result, *size)}
        return found

    def preprocess_image(self, batched_inputs: list[Item]) -> ImageList:
        """Normalise the images and pad them with zeros to one batch.

        Raises:
            UserError: an image is larger than `pad_to`.
        """
        return self.canvas.batch(batched_inputs, self.pixel_mean, self.pixel_std)

    def run_network(self, images: Tensor, items: Sequence[Item] = (), labels: list[dict[str, Tensor]] | None = None):
        """The library's output for normalised and padded images (N, C, H, W).

        Args:
            items: what the images are of, for errors.
            labels: ground truth, for losses.
        """
        maps = self.backbone(images)
        features = [maps[name] for name in self.maps]
        self._check_positions(features, images, items)
        return self.answer(features, images, labels)

    def answer(self, features: Sequence[Tensor], images: Tensor, labels: list[dict[str, Tensor]] | None = None):
        """The library's output for maps of the backbone, finest first, and the images that they are of."""
        with self._slot.filled(features):
            return self.network(pixel_values=images, **({} if labels is None else {"labels": labels}))

    def best_pairs(self, logits: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of query and class.

        Args:
            logits: (N, Q, K).
            boxes: (N, Q, 4), (centre x, centre y, width, height) as fractions of `size`.
            size: (height, width) of the padded batch, pixels.

        Returns:
            Boxes (N, D, 4) XYXY in pixels, not clipped, scores (N, D), falling, and classes (N, D).
        """
        height, width = size
        scores = logits.float().sigmoid().flatten(1)
        count = min(self.max_detections_per_image or logits.shape[1], scores.shape[1])
        scores, pairs = scores.topk(count, dim=1)
        queries, classes = pairs // logits.shape[2], pairs % logits.shape[2]
        corners = to_xyxy(boxes.float())
        x, y = corners[..., 0::2] * width, corners[..., 1::2] * height
        corners = torch.stack((x, y), dim=-1).flatten(-2)
        return corners.gather(1, queries[..., None].expand(-1, -1, 4)), scores, classes

    def detections(self, logits: Tensor, boxes: Tensor, images: ImageList) -> list[Instances]:
        """`best_pairs` of each image of a batch, as Instances; boxes are not clipped."""
        corners, scores, classes = self.best_pairs(logits, boxes, tuple(images.tensor.shape[-2:]))
        return [
            Instances(tuple(size), pred_boxes=Boxes(corners[i]), scores=scores[i], pred_classes=classes[i])
            for i, size in enumerate(images.image_sizes)
        ]

    def _losses(self, items: list[Item]) -> dict[str, Tensor]:
        images = self.preprocess_image(items)
        labels = labels_of(items, tuple(images.tensor.shape[-2:]), self.num_classes, self.device)
        try:
            output = self.run_network(images.tensor, items, labels)
        except ValueError as error:
            if isinstance(error, UserError) or not _NOT_FINITE.search(str(error)):
                raise
            raise NonFiniteCostError(
                "The predictions of this batch hold NaN or infinity, so no object can be matched with any: lower "
                "optimizer.lr, or set train.clip_grad.max_norm.",
                None,
            ) from error
        config = self.network.config
        losses = weighted_losses(output.loss_dict, config, is_weighted=self.family.is_weighted)
        if self.last_layer_fgl:
            losses["loss_fgl"] = last_layer_distribution_loss(output, labels, config)
        self._touch_unused(losses, labels)
        return losses

    def _touch_unused(self, losses: dict[str, Tensor], labels: list[dict[str, Tensor]]) -> None:
        """Give a tensor that no loss depends on, in a batch without objects, a gradient of zeros: processes wait."""
        name = self.family.unused_without_objects
        if name is None or any(len(label["class_labels"]) for label in labels):
            return
        if (parameter := dict(self.network.named_parameters()).get(name)) is not None and parameter.requires_grad:
            first = next(iter(losses))
            losses[first] = losses[first] + 0.0 * parameter.sum()

    def _check_positions(self, features: Sequence[Tensor], images: Tensor, items: Sequence[Item]) -> None:
        queries, positions = self.family.choice(self.network.config, [feature.shape[-2:] for feature in features])
        if positions < queries:
            height, width = images.shape[-2:]
            name = names_of(items)[0] if items else "An image"
            raise UserError(
                f"{name} comes as {height}x{width} pixels, of which the maps have {positions} positions, and "
                f"num_queries={queries} are chosen among these: take larger images, or "
                f"model.options.num_queries={positions} at the most."
            )
