"""The extension point for mixing images of a batch, labels included."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Mix(ABC):
    """An image and its partner -> the mixed image, and how much of it is the image itself.

        class Half(Mix):
            def __call__(self, image, partner):
                return (image + partner) / 2, 0.5

    Items 2j and 2j + 1 of a batch are partners. The loader seeds Python's, NumPy's and torch's global generators
    from the run's seed and the draw of item 2j before every call, so both get the same random choice, for any number
    of workers and processes. An item without a partner stays as it is.
    """

    @abstractmethod
    def __call__(self, image: Tensor, partner: Tensor) -> tuple[Tensor, float]:
        """(3, H, W) float images -> the mixed one, and the share of `image` in it, which its label gets.

        They are what the backbone's preprocessing collates: bytes as numbers from 0 to 255, and the mixed ones are
        rounded to bytes again; or floats, as they are.
        """
