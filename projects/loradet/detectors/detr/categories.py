"""The mapping from logits of the class head to categories."""

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from loradet.errors import UserError


@dataclass(frozen=True)
class CategoryIds:
    """One mapping between a data set's category ids, contiguous ids and logits.

    Contiguous ids 0 … K - 1 are what Detectron2 has in `gt_classes` and `pred_classes`. A model whose logits are the
    contiguous ids needs no mapping.

    Args:
        dataset_ids: category id in the annotation file of each contiguous id.
        logits: column of the class head of each contiguous id.
        num_logits: columns of the class head, without "no object", which follows them.
        names: of the categories, where they are known.

    Raises:
        ValueError: lengths differ, an id or a column occurs twice, or a column does not exist.
    """

    dataset_ids: Sequence[int]
    logits: Sequence[int]
    num_logits: int
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("dataset_ids", "logits"):
            values = tuple(int(value) for value in getattr(self, name))
            object.__setattr__(self, name, values)
            if twice := sorted({value for value in values if values.count(value) > 1}):
                raise UserError(f"{name} has {', '.join(map(str, twice))} twice; each category has its own.")
        object.__setattr__(self, "names", tuple(self.names))
        if self.names and len(self.names) != len(self.logits):
            raise UserError(f"{len(self.names)} names, but {len(self.logits)} logits: one each is needed.")
        if len(self.dataset_ids) != len(self.logits):
            raise UserError(f"{len(self.dataset_ids)} dataset_ids, but {len(self.logits)} logits: one each is needed.")
        if outside := [column for column in self.logits if not 0 <= column < self.num_logits]:
            raise UserError(f"logits {outside} are not in 0..{self.num_logits - 1} (num_logits={self.num_logits}).")

    def __len__(self) -> int:
        return len(self.dataset_ids)

    @property
    def head_rows(self) -> tuple[int, ...]:
        """Rows of the class head to keep for a head of contiguous ids: each category's, then "no object"."""
        return (*self.logits, self.num_logits)

    def check(self, dataset_ids: Sequence[int], names: Sequence[str]) -> None:
        """Compare with the categories of a data set in the order of its contiguous ids.

        Where the mapping has names, these decide: COCO's classes have the ids 1 … 80 in many exports.

        Raises:
            ValueError: a class of the data would be trained as another category; it is named.
        """
        if tuple(names) == self.names or (not self.names and tuple(dataset_ids) == self.dataset_ids):
            return
        if len(names) != len(self):
            raise UserError(f"categories maps {len(self)} classes, but the data have {len(names)}.")
        own = self.names or [f"id {number}" for number in self.dataset_ids]
        there = names if self.names else [f"id {number}" for number in dataset_ids]
        place = next(i for i, (ours, theirs) in enumerate(zip(own, there)) if ours != theirs)
        raise UserError(
            f"Class {place} of the data is {there[place]!r}, but the mapping of categories has {own[place]!r} there. "
            "Name the classes in its order by data.classes, or leave model.categories=None."
        )

    def contiguous_of_dataset(self, dataset_id: int) -> int:
        """Contiguous id of a category of the annotation file; ValueError where there is none."""
        return _place(self.dataset_ids, dataset_id, "category id")

    def contiguous_of_logit(self, column: int) -> int:
        """Contiguous id that a column of the class head stands for; ValueError where it stands for none."""
        return _place(self.logits, column, "logit")

    def dataset_of_contiguous(self, contiguous: int) -> int:
        """Category id in the annotation file; ValueError where there is no such contiguous id."""
        return self.dataset_ids[self._checked(contiguous)]

    def logit_of_contiguous(self, contiguous: int) -> int:
        """Column of the class head; ValueError where there is no such contiguous id."""
        return self.logits[self._checked(contiguous)]

    def _checked(self, contiguous: int) -> int:
        if not 0 <= contiguous < len(self):
            raise UserError(f"Contiguous id {contiguous}: expected 0..{len(self) - 1}.")
        return contiguous


def coco_categories() -> CategoryIds:
    """The published DETR models: logit = COCO's category id (1 … 90 with gaps), 91 columns before "no object"."""
    # An installed Detectron2 lists the categories of panoptic segmentation too.
    things = [category for category in COCO_CATEGORIES if category["isthing"]]
    ids, names = [thing["id"] for thing in things], [thing["name"] for thing in things]
    return CategoryIds(dataset_ids=ids, logits=ids, num_logits=max(ids) + 1, names=names)


def _place(values: Sequence[int], value: int, kind: str) -> int:
    if value not in values:
        raise UserError(f"{kind} {value} is no category; there are {', '.join(map(str, values))}.")
    return values.index(value)
