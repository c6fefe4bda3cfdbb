"""The objects of one image, field by field."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch


class Instances:
    """Fields of one length (boxes, scores, classes ...) that describe the objects of one image.

    A field is an attribute: `instances.gt_boxes = Boxes(...)`. Anything with `len` and indexing can be one.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any) -> None:
        """
        Args:
            image_size: (height, width) that the coordinates refer to.
            kwargs: fields to start with.
        """
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) that the coordinates refer to."""
        return self._image_size

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        # Unpickling and copying ask for attributes before `_fields` exists.
        fields = self.__dict__.get("_fields", {})
        if name in fields:
            return fields[name]
        raise AttributeError(f"Instances have no field {name!r}; there are: {', '.join(fields) or 'none'}.")

    def set(self, name: str, value: Any) -> None:
        """Set a field.

        Raises:
            AssertionError: its length differs from that of the other fields.
        """
        if self._fields:
            assert len(value) == len(self), (
                f"Field {name!r} has length {len(value)}, the other fields have {len(self)}."
            )
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """Whether the field exists."""
        return name in self._fields

    def remove(self, name: str) -> None:
        """Delete a field."""
        del self._fields[name]

    def get(self, name: str) -> Any:
        """The field of that name; KeyError where there is none."""
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """All fields by name: the dict that these Instances use, so changes to it show here."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """Instances with `to(...)` applied to every field that has it."""
        moved = {k: v.to(*args, **kwargs) if hasattr(v, "to") else v for k, v in self._fields.items()}
        return self._with(moved)

    def __getitem__(self, item: int | slice | torch.Tensor) -> "Instances":
        """The objects that `item` picks, in every field. An int gives Instances of length 1.

        Raises:
            IndexError: an int out of range.
        """
        if isinstance(item, int):
            if not -len(self) <= item < len(self):
                raise IndexError(f"Index {item} is out of range: there are {len(self)} instances.")
            item = slice(item, None, len(self))
        return self._with({k: v[item] for k, v in self._fields.items()})

    def _with(self, fields: dict[str, Any]) -> "Instances":
        result = Instances(self._image_size)
        for name, value in fields.items():
            result.set(name, value)
        return result

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without any field have no length.")

    def __iter__(self) -> Iterator:
        raise NotImplementedError("Instances cannot be iterated over; iterate over one of the fields.")

    @staticmethod
    def cat(instance_lists: list["Instances"]) -> "Instances":
        """The objects of several Instances of one image, in order. All must have the same fields.

        Raises:
            AssertionError: nothing to join, or image sizes differ.
            ValueError: a field is of a type that cannot be joined.
        """
        assert len(instance_lists) > 0 and all(isinstance(i, Instances) for i in instance_lists), (
            "Instances.cat takes a list of one or more Instances."
        )
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        assert all(i.image_size == first.image_size for i in instance_lists), (
            f"Only Instances of one image size can be joined, got {[i.image_size for i in instance_lists]}."
        )
        return first._with({name: _join(name, [i.get(name) for i in instance_lists]) for name in first.get_fields()})

    def __repr__(self) -> str:
        head = [f"image_height={self._image_size[0]}", f"image_width={self._image_size[1]}"]
        count = [f"num_instances={len(self)}"] if self._fields else []
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        return f"Instances({', '.join([*count, *head, f'fields=[{fields}]'])})"


def _join(name: str, values: list[Any]) -> Any:
    kind = type(values[0])
    if isinstance(values[0], torch.Tensor):
        return torch.cat(values, dim=0)
    if isinstance(values[0], list):
        return list(itertools.chain.from_iterable(values))
    if hasattr(kind, "cat"):
        return kind.cat(values)
    raise ValueError(f"Cannot join the field {name!r} of type {kind.__name__}: it has no `cat`.")
