"""Keeps outputs of a detector's frozen part for the images of its loaders."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from torch import nn

from loradet.datasets.readers.records import Records, column
from loradet.errors import UserError
from loradet.feature_cache.contents import Content, image_contents
from loradet.feature_cache.frozen_part import FrozenPart, check_frozen_part, find_frozen_part
from loradet.feature_cache.mapper import CachedMapper
from loradet.feature_cache.probe import Probe, fixed_padding, probe
from loradet.feature_cache.replay import Features, Replay
from loradet.feature_cache.spec import spec_name, spec_of
from loradet.feature_cache.stores import DiskStore, MemoryStore, Store
from loradet.feature_cache.views import SETTING, ViewPlan, plan_views
from loradet.files import write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Images:
    """The images of a loader, and how they are seen."""

    names: list[str]  # of the files, each once
    size: tuple[int, int]  # (height, width) of them, or of the batches that they are padded to
    mapper: Any
    autocast: torch.dtype | None
    plan: ViewPlan


class FeatureCache:
    """The cache of a run: say whose images it is for by `add`, then `open` it, then give its `mapper`s to loaders.

    Args:
        model: a detector with the weights that it goes on with, in the mode that it is called in; not wrapped.
        where: "disk" or "memory".
        folder: of the entries of all runs, with "disk".
        dtype: "bf16" or "fp16" to keep features in; None: as they are.
        max_gb: the most that the entries of this run may take, 10^9 bytes.

    Raises:
        UserError: nothing is frozen in front of what trains, or what is frozen is not in eval mode.
    """

    def __init__(
        self, model: nn.Module, *, where: str, folder: str | Path, dtype: str | None, max_gb: float | None
    ) -> None:
        self.model = model
        self.where = where
        self.folder = Path(folder)
        self.dtype = dtype
        self.max_gb = max_gb
        self.part: FrozenPart = find_frozen_part(model)
        check_frozen_part(model, self.part)
        self._images: dict[str, _Images] = {}
        self._features: dict[str, tuple[Features, dict[str, Content]]] = {}
        self._replay: Replay | None = None

    def add(
        self, key: str, records: Sequence[dict[str, Any]], mapper: Any, *, autocast: torch.dtype | None = None
    ) -> None:
        """Let the cache be for a loader's images too.

        Args:
            key: of the loader in the config.
            records: Detectron2's, with width and height.
            mapper: of the loader.
            autocast: type of the autocast that the model is called under with these images; None: without.

        Raises:
            UserError: names what makes the views of an image endless, or its padding uncertain.
        """
        mapper_key = f"{key}.mapper"
        plan = plan_views(mapper, mapper_key)
        edge = fixed_padding(self.model)
        if plan.size is None and edge is None:
            raise UserError(
                f"{SETTING}: {mapper_key}.augmentations ({plan.resized_by}) leaves images of different shapes, and how "
                "a batch is padded, which changes features, depends on which come together. Let batches have one size: "
                "T.Resize(shape=[H, W]) in the augmentations, or model.pad_to=[S, S] of DETR, or square_pad=S of the "
                "pyramid."
            )
        names = dict.fromkeys(_file_names(records, key))
        self._images[key] = _Images(
            names=list(names), size=plan.size or (edge, edge), mapper=mapper, autocast=autocast, plan=plan
        )

    def open(self) -> None:
        """Find out what entries are like, say how much they take, and begin. A collective call.

        Raises:
            UserError: they take more than `max_gb`, the frozen part gives different numbers for the same image, or the
                folder holds features of another computation.
        """
        if comm.is_main_process():
            self._open()
        comm.synchronize()  # hashes of images, and the probe, are in the folder now
        if not comm.is_main_process():
            self._open()

    def _open(self) -> None:
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        probes = {key: self._probe(one) for key, one in self._images.items()}
        self._check_size(probes)
        self._replay = Replay(self.model, self.part)
        for key, images in self._images.items():
            found = probes[key]
            if self.where == "memory":
                contents = {name: Content(name, None) for name in images.names}
                store: Store = MemoryStore(images.names, images.plan.count, found.layout)
            else:
                contents = image_contents(images.names, self.folder)
                store = self._disk_store(images, found)
            features = Features(store, found.layout, found.padded, images.autocast)
            self._features[key] = features, contents
            self._replay.features[key] = features

    def _probe(self, images: _Images) -> Probe:
        return probe(self.model, self.part, images.size, images.autocast, self.dtype)

    def _check_size(self, probes: dict[str, Probe]) -> None:
        rows, total = [], 0
        for key, images in self._images.items():
            count, each = len(images.names), probes[key].layout.nbytes
            views = images.plan.count
            total += count * views * each
            rows.append(f"{key}: {count} images x {views} view{'s' if views > 1 else ''} x {each / 1e6:.3g} MB")
        processes = comm.get_world_size() if self.where == "memory" else 1
        total *= processes
        times = f" x {processes} processes" if processes > 1 else ""
        words = f"{'; '.join(rows)}{times} = {total / 1e9:.3g} GB"
        place = "in memory" if self.where == "memory" else f"in {self.folder}"
        if self.max_gb is not None and total > self.max_gb * 1e9:
            raise UserError(
                f"train.feature_cache.max_gb={self.max_gb}: outputs of {self.part} would take more {place}: {words}. "
                "Raise it, keep them in less (train.feature_cache.dtype=bf16), or leave the cache off."
            )
        logger.info("Outputs of %s (frozen) are kept %s: %s.", self.part, place, words)

    def _disk_store(self, images: _Images, found: Probe) -> DiskStore:
        spec = spec_of(
            self.model,
            self.part,
            images.mapper,
            padded=found.padded,
            autocast=images.autocast,
            layout=found.layout.describe(),
        )
        name = spec_name(spec)
        store = DiskStore(self.folder / name, name, found.layout)
        if store.is_writable and not (about := store.folder / "about.json").is_file():
            try:
                write_json(about, spec)
            except OSError as error:
                store.note_failure(about, error)
        found.compare(store)
        return store

    def mapper(self, key: str, mapper: Any) -> CachedMapper:
        """A loader's mapper that knows what is kept.

        Args:
            key: that was added.
            mapper: the loader's own.
        """
        features, contents = self._features[key]
        return CachedMapper(mapper, key, features.store, contents)

    def close(self) -> None:
        """Leave the model as it was."""
        if self._replay is not None:
            self._replay.remove()


def _file_names(records: Sequence[dict[str, Any]], key: str) -> list[str]:
    """Of images whose records say what the cache needs; `Records` do, and are not made for that."""
    for record in () if isinstance(records, Records) else records:
        if "sem_seg_file_name" in record:
            raise UserError(f"{SETTING}: the data of {key} have label maps (sem_seg_file_name), which are not kept.")
        if "width" not in record or "height" not in record:
            raise UserError(f"{SETTING}: the data of {key} do not say width and height of each image.")
    return list(map(str, column(records, "file_name")))
