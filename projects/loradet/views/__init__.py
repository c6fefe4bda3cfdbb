"""Several looks at one image, as tiles, mirrored, in other sizes, and one list of boxes from all of them."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.views.detector import ViewDetector
    from loradet.views.mapper import ViewMapper
    from loradet.views.plan import Views
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["ViewDetector", "ViewMapper", "Views"]
