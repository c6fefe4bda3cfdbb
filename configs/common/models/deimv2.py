"""DEIMv2 (https://arxiv.org/abs/2509.20787) of transformers on any backbone, as wide and deep as `dfine.py`.

As `dfine.py`; `options` are those of the library's `Deimv2Config`, in which `encoder_type="lite"` takes two maps.
"""

from .dfine import model

model.family = "deimv2"
