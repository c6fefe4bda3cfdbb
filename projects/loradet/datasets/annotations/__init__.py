"""The one reader of COCO instances files: unambiguous values are converted, others refused by entry and key.

`read_annotations` gives typed columns, for training, evaluation and every analysis; `read_content` the whole content
as it is written, for tools that write it again. Both take a value for what `values` says that it means.
"""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.datasets.annotations.content import read_content
    from loradet.datasets.annotations.reader import read_annotations
    from loradet.datasets.annotations.table import AnnotationFile, Boxes, Category, Images
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["AnnotationFile", "Boxes", "Category", "Images", "read_annotations", "read_content"]
