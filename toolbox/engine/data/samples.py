"""Samples as datasets give them, their ids and labels made plain."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from toolbox.base import Dataset, Sample
from toolbox.base.scalars import as_id, as_label
from toolbox.errors import ToolboxError

_INT64 = 1 << 63


def read_sample(dataset: Dataset, index: int, fields: Collection[str] | None = None) -> Sample:
    """The item at `index`, whole or with the given `fields`.

    Its "id" is an int or a str, its index where it has none; its "label" an int or None. Raises ToolboxError, naming
    dataset and item, for an id or label that is neither.
    """
    sample = dataset[index] if fields is None or not _reads_fields(type(dataset)) else dataset.read(index, fields)
    if not isinstance(sample, Mapping):
        raise ToolboxError(
            f"Item {index} of {type(dataset).__name__} is a {type(sample).__name__}, and a sample is a dict.",
            where="dataset",
            hint='Return {"image": ..., "label": ..., "id": ...} from __getitem__.',
        )
    try:
        name, label = as_id(sample.get("id", index)), as_label(sample.get("label"))
        if label is not None and not -_INT64 <= label < _INT64:
            raise ValueError(f"a label fits into 64 bits, and {label} does not")
    except ValueError as error:
        raise ToolboxError(
            f"Item {index} of {type(dataset).__name__} cannot be used: {error}.",
            where="dataset",
            hint="Let the dataset's __getitem__ give an int or a str as 'id', the same in every run, and an int or "
            "None as 'label'.",
        ) from error
    return {**sample, "id": name, "label": label}


def _reads_fields(cls: type) -> bool:
    """Whether a class has a `read` of its own that stands for its `__getitem__`, which no subclass has changed."""
    first = next(base for base in cls.__mro__ if "read" in vars(base) or "__getitem__" in vars(base))
    return "read" in vars(first)
