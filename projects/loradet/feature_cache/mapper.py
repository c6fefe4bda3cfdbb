"""A mapper that leaves an image on the disk where the features of its view are kept."""

import copy
import logging
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from loradet.feature_cache.contents import Content
from loradet.feature_cache.replay import MARK, Mark
from loradet.feature_cache.stores import Key, Store
from loradet.feature_cache.views import draw_view

logger = logging.getLogger(__name__)


class CachedMapper:
    """Draws the view first; where its features are kept the sample has boxes alone, else it is the mapper's own.

    Both draw the same numbers, so a stream of samples is the same with and without entries.

    Args:
        mapper: that `plan_views` has let pass.
        name: of the features that the samples are marked with.
        store: of the entries.
        contents: by image file; images that are not in it are mapped as without a cache.
    """

    def __init__(self, mapper: Any, name: str, store: Store, contents: Mapping[str, Content]) -> None:
        self.mapper = mapper
        self.name = name
        self.store = store
        self.contents = contents
        self._has_warned = False

    def __call__(self, record: dict[str, Any]) -> dict[str, Any] | None:
        """Map one record, which is left as it is; the sample says in `MARK` which features are its own."""
        file = str(record["file_name"])
        content = self.contents.get(file)
        if content is None:
            return self.mapper(record)
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        view, transforms = draw_view(self.mapper, record["height"], record["width"])
        key = Key(content.name, view)
        is_kept, row = self.store.find(key)
        if not is_kept:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])
            sample = self.mapper(record)
            if sample is not None and self._is_of(content, file):
                sample[MARK] = Mark(self.name, key, None, is_kept=False)
            return sample
        sample = copy.deepcopy(record)
        sample[MARK] = Mark(self.name, key, row, is_kept=True)
        if not self.mapper.is_train:
            sample.pop("annotations", None)
        elif "annotations" in sample:
            self.mapper._transform_annotations(sample, transforms, view.size)
        return sample

    def _is_of(self, content: Content, file: str) -> bool:
        """Whether what was read a moment ago is what was hashed; the first time that it is not, a warning says so."""
        if content.is_still_in(file):
            return True
        if not self._has_warned:
            self._has_warned = True
            logger.warning("%s has changed since the run began: features of such images are not kept.", file)
        return False
