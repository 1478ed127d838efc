"""The extension point for what turns raw values into what a backbone takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch.utils.data import default_collate


class Preprocess(ABC):
    """Turns raw values into what a backbone takes: one by one and collated in data workers, finished on the device.

    Picklable, and holds no module. What grows the data, such as from bytes to normalised floats, belongs in `finish`:
    batches then cross from the workers at a quarter of the size.

    - `size`: (height, width) that the backbone wants, None for text.
    """

    size: tuple[int, int] | None = None

    @abstractmethod
    def __call__(self, value: Any) -> Any:
        """One raw value (a PIL image, a string) -> one item, e.g. a (3, H, W) tensor of bytes."""

    def uncut(self) -> Preprocess:
        """The same for views that an augment has made, of which no more is cut off. Itself unless overridden."""
        return self

    def is_cut(self, item: Any) -> bool:
        """Whether an item leaves out the end of its value, a text of more tokens than are read. Such texts are counted.

        False unless overridden.
        """
        return False

    def collate(self, items: list[Any]) -> Any:
        """Items of one batch -> what is moved to the device. Stacks tensors unless overridden."""
        return default_collate(items)  # in a data worker straight into shared memory: one copy less

    def finish(self, batch: Any) -> Any:
        """A collated batch, on the device -> the `inputs` of `Backbone.forward`. Unchanged unless overridden."""
        return batch

    def example(self, rows: int) -> Any:
        """What `finish` gives of so many rows of the largest size, without values: on torch's meta device.

        Memory is counted with it, and shapes are checked, before a run starts. Default: float32 images of `size`.
        Raises NotImplementedError for texts unless overridden: nothing is counted or checked then.
        """
        if self.size is None:
            raise NotImplementedError(f"{type(self).__name__} gives no example of its inputs")
        return torch.empty(rows, 3, *self.size, device="meta")
