"""Class names and category ids of a detector."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Classes:
    """Classes by number.

    Attributes:
        names: of the classes.
        ids: the data set's category ids.
        synthetic: whether the training images are known to be synthetic.
    """

    names: list[str]
    ids: list[int]
    synthetic: bool = False

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, Any]) -> "Classes":
        """Those that an exported file names."""
        return cls(metadata["classes"], metadata["category_ids"], metadata.get("data") == "synthetic")

    def categories(self) -> list[dict[str, Any]]:
        """The same as COCO has it."""
        return [{"id": i, "name": name} for i, name in zip(self.ids, self.names)]
