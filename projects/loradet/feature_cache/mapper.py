"""A mapper that leaves an image on the disk where the features of its view are kept."""

import copy
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from loradet.feature_cache.replay import MARK, Mark
from loradet.feature_cache.stores import Key, Store
from loradet.feature_cache.views import draw_view


class CachedMapper:
    """Draws the view first; where its features are kept the sample has boxes alone, else it is the mapper's own.

    Both draw the same numbers, so a stream of samples is the same with and without entries.

    Args:
        mapper: that `plan_views` has let pass.
        name: of the features that the samples are marked with.
        store: of the entries.
        contents: hash by image file; images that are not in it are mapped as without a cache.
    """

    def __init__(self, mapper: Any, name: str, store: Store, contents: Mapping[str, str]) -> None:
        self.mapper = mapper
        self.name = name
        self.store = store
        self.contents = contents

    def __call__(self, record: dict[str, Any]) -> dict[str, Any] | None:
        """Map one record, which is left as it is; the sample says in `MARK` which features are its own."""
        content = self.contents.get(str(record["file_name"]))
        if content is None:
            return self.mapper(record)
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        view, transforms = draw_view(self.mapper, record["height"], record["width"])
        key = Key(content, view)
        row = self.store.read(key) if self.store.reads_in_workers else None
        if row is None and not (not self.store.reads_in_workers and self.store.has(key)):
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])
            sample = self.mapper(record)
            if sample is not None:
                sample[MARK] = Mark(self.name, key, None, is_kept=False)
            return sample
        sample = copy.deepcopy(record)
        sample[MARK] = Mark(self.name, key, row, is_kept=True)
        if not self.mapper.is_train:
            sample.pop("annotations", None)
        elif "annotations" in sample:
            self.mapper._transform_annotations(sample, transforms, view.size)
        return sample
