"""Images as users of Python have them (files, arrays, tensors), as a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from toolbox.base import Dataset, Sample, read_image
from toolbox.base.images import apply_orientation, to_rgb
from toolbox.errors import ToolboxError

_TRY = "Give paths, PIL images, NumPy arrays (H, W, 3) or tensors (3, H, W) of uint8, or a list of them."


class ImageList(Dataset):
    """Images in the order given, each of any of these kinds; files are read when their item is.

    - `images`: paths, PIL images, NumPy arrays (H, W, 3) or (H, W), or tensors (3, H, W), of uint8, from 0 to 255;
      a list of them, which may be mixed, or one of them; an array or tensor with an axis more is N images.

    Raises ToolboxError for other values and for an empty list; its items OSError naming a file that cannot be read.
    """

    def __init__(self, images: Any) -> None:
        self.images = _as_list(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return {"image": _to_image(self.images[index], index), "id": index}


def _as_list(images: Any) -> list[Any]:
    if isinstance(images, str | Path | Image.Image):
        return [images]
    if isinstance(images, np.ndarray | Tensor) and images.dtype in (np.uint8, torch.uint8):
        images = [images] if images.ndim <= 3 else images
    elif isinstance(images, dict) or not hasattr(images, "__iter__"):
        raise ToolboxError(f"A {type(images).__name__} is no image, and no list of images.", hint=_TRY)
    listed = list(images)
    if not listed:
        raise ToolboxError("There are no images to encode: the list is empty.")
    return listed


def _to_image(image: Any, place: int) -> Image.Image:
    """An image in RGB, as the user means it; `place`: in the list, for messages."""
    if isinstance(image, str | Path):
        path = Path(image).expanduser()
        if path.is_dir():
            raise ToolboxError(
                f"{path} is a folder, and an encoder takes images.",
                hint=f"List those in it: sorted(pathlib.Path({str(path)!r}).rglob('*.jpg'))",
            )
        return read_image(path)
    if isinstance(image, Image.Image):
        return to_rgb(apply_orientation(image))
    if isinstance(image, Tensor):
        last = image.shape[-3] if image.ndim == 3 else 0
        array = image.detach().cpu().permute(1, 2, 0).numpy() if last in (1, 3, 4) else None
        shape = "a tensor is (3, H, W)"
    elif isinstance(image, np.ndarray):
        array = image if image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4)) else None
        shape = "an array is (H, W, 3)"
    else:
        raise ToolboxError(f"Image {place} is a {type(image).__name__}.", hint=_TRY)
    if array is None or array.dtype != np.uint8 or 0 in array.shape:
        what = f"shape {tuple(image.shape)} and {str(image.dtype).removeprefix('torch.')}"
        raise ToolboxError(f"Image {place} has {what}: {shape}, of uint8 from 0 to 255.", hint=_TRY)
    return to_rgb(Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array)))
