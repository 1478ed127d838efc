"""The extension point for random views of an image."""

from __future__ import annotations

from abc import ABC, abstractmethod

from PIL import Image


class Augment(ABC):
    """An image -> a random view of it, or a list of views.

        class Flip(Augment):
            def __call__(self, image, size):
                return ImageOps.mirror(image) if random.random() < 0.5 else image

    The loader seeds Python's, NumPy's and torch's global generators from (seed, draw) before every call, so any
    library's transforms are exact: the same for any number of workers, and new at every draw of an image.
    """

    @abstractmethod
    def __call__(self, image: Image.Image, size: tuple[int, int]) -> Image.Image | list[Image.Image]:
        """One or several views of `image`; `size` is the (height, width) that the backbone wants."""
