"""The input of models and metrics: some items of a dataset, read, converted and collated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(kw_only=True)
class Batch:
    """B items. `len(batch)` is B; a batch of which nothing could be read has none, and no inputs.

        batch = Batch.example({"image": torch.rand(8, 3, 224, 224)}, labels=torch.arange(8) % 2)
        batch.inputs["image"].shape, len(batch), batch.ids

    Fields may also be read by their names, `batch["labels"]`, as outputs of transformers are.

    - `inputs`: {name: tensor or dict of tensors}, what the backbone of that input reads; V * B rows, view-major: rows
      0 to B - 1 are the first view of each item.
    - `views`: {name: V}, how many views of an item an input holds.
    - `owners`: {name: (R,) int64} of the inputs that are texts: which item, of 0 to B - 1, each row belongs to. In
      training an item has one row, in evaluation and in stores as many as it has texts, one after another.
    - `texts`: {name: (R,) int64}, a digest of each row's text: equal texts have equal numbers.
    - `labels`: (B,) int64, or None.
    - `ids`: B ints or strings; `indices`: B places in the dataset.
    - `draws`: B places in the run's order over all processes, which seed what is random of an item.
    - `roles`: B times "query" or "gallery"; None where every item is both.
    - `blocks`: the items are so many equally long blocks, item i of each belonging together; 1: independent items.
    - `stored`: the names of inputs that hold stored features, (rows, P): what their `PooledBackbone` made of them.
    - `mixed`: where images were mixed in pairs, (the partner's row (B,), share of the image itself (B,)); labels are
      the image's own.
    - `share`: (number, count): which of how many parts of a step's items these are, over accumulated batches and
      processes, in the order of the items.
    - `cut`: {name: how many texts of an input are longer than its backbone reads, so that their ends are left out}.
    - `bad`: (index, message) of items that were left out, as they could not be read.
    """

    inputs: dict[str, Any] = field(default_factory=dict)
    views: dict[str, int] = field(default_factory=dict)
    owners: dict[str, Tensor] = field(default_factory=dict)
    texts: dict[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    ids: Sequence[int | str] = ()
    indices: Sequence[int] = ()
    draws: Sequence[int] = ()
    roles: Sequence[str] | None = None
    blocks: int = 1
    stored: Sequence[str] = ()
    mixed: tuple[Tensor, Tensor] | None = None
    share: tuple[int, int] = (0, 1)
    cut: dict[str, int] = field(default_factory=dict)
    bad: list[tuple[int, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, name: str) -> Any:
        """The field of a name. Raises KeyError for any other."""
        if name not in self.__dataclass_fields__:
            raise KeyError(f"a batch has no {name!r}: it has {', '.join(self.__dataclass_fields__)}")
        return getattr(self, name)

    @classmethod
    def from_fields(cls, fields: Batch | Mapping[str, Any]) -> Batch:
        """`fields` itself if it is a batch, else a batch with these fields, so that a metric can be tried by hand."""
        return fields if isinstance(fields, Batch) else cls(**fields)

    @classmethod
    def example(cls, inputs: Mapping[str, Any], *, views: Mapping[str, int] | None = None, **fields: Any) -> Batch:
        """A batch of given inputs, its items numbered from 0: for tests, and to try a model.

        - `inputs`: as above; B is the rows of the first one, divided by its views.
        - `views`: as above; one of each item by default.
        - `fields`: any other field, instead of its default.
        """
        views = dict.fromkeys(inputs, 1) if views is None else dict(views)
        name, value = next(iter(inputs.items()))
        while isinstance(value, Mapping):
            value = next(iter(value.values()))
        numbers = list(range(len(value) // views[name]))
        return cls(
            **{"inputs": dict(inputs), "views": views, "ids": numbers, "indices": numbers, "draws": numbers, **fields}
        )
