"""The process's surroundings: random seeds and the version of torch."""

import logging
import os
import random
import re

import numpy as np
import torch
from detectron2._subset import missing_names

__all__ = ["TORCH_VERSION", "seed_all_rng"]

# (major, minor)
TORCH_VERSION: tuple[int, int] = tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2])


def seed_all_rng(seed: int | None = None) -> None:
    """Seed Python's, numpy's and torch's generators (all devices).

    Args:
        seed: default: one from the operating system, logged so that the run can be repeated.
    """
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little")
        logging.getLogger(__name__).info("Random seed: %d.", seed)
    random.seed(seed)
    # numpy takes 32 bits only.
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed % 2**32)


__getattr__ = missing_names(__name__, ["fixup_module_metadata", "setup_custom_environment", "setup_environment"])
