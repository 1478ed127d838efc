"""Images of a batch mixed in pairs, as `train_dataloader.mix` says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolbox.base import Batch, Mix, Model, Sampler
from toolbox.errors import Problem

PAIR = 2
_BATCHES = 50
_MORE = 0.25
"""How much more often than by chance neighbours may be of one class."""
STREAM = 1 << 16  # of randomness, beyond those of augmentations
WHERE = "train_dataloader.mix"


def mix_pairs(
    batch: Batch, places: Sequence[int], draws: Sequence[tuple[int, int]], mix: Mix, seed: Callable[[int], None]
) -> Problem | None:
    """Mix the images of a collated batch in place, and say in `batch.mixed` with whom and how much.

    Bytes are mixed as floats and rounded to bytes again. An item without a partner stays as it is: the last one of an
    odd number, and one whose partner could not be read, so that the other pairs are those of every other run.

    - `places`: for each row, its place in `draws`; places 2j and 2j + 1 are partners.
    - `seed`: called with the draw of item 2j before every call of `mix`.

    Returns what makes this batch impossible to mix, None if nothing does.
    """
    (name, images), *more = batch.inputs.items()
    fine = not more and isinstance(images, Tensor) and images.ndim == 4 and batch.views[name] == batch.blocks == 1
    if not fine or not (images.is_floating_point() or images.dtype == torch.uint8):
        what = "one image an item, (B, 3, H, W) in bytes or floats"
        return Problem(f"Images are mixed where a batch holds {what}, and this one does not.", WHERE, "Remove it.")
    row_of = {place: row for row, place in enumerate(places)}
    partner, share = torch.arange(len(images)), torch.ones(len(images))
    plain = images.clone()
    for first, second in ((row_of.get(place), row_of.get(place + 1)) for place in range(0, len(draws), PAIR)):
        if first is None or second is None:
            continue
        for own, other in ((first, second), (second, first)):
            seed(draws[places[first]][0])
            mixed, kept = mix(plain[own].float(), plain[other].float())
            if mixed.shape != images[own].shape or not 0 <= kept <= 1:
                what = f"an image of shape {tuple(mixed.shape)} and the share {kept}"
                return Problem(f"{type(mix).__name__} gave {what}: the shape must stay, and a share is 0 to 1.", WHERE)
            images[own] = mixed if images.is_floating_point() else mixed.round().clamp(0, 255).to(torch.uint8)
            partner[own], share[own] = other, kept
    batch.mixed = partner, share
    return None


def problems(model: Model, views: dict[str, int], blocks: int) -> list[Problem]:
    """Why a model or its batches cannot be trained on mixed images.

    - `views`: how many views an item has for each of the model's inputs; `blocks`: of the sampler.
    """
    name, sizes = type(model).__name__, {key: source.size for key, source in model.preprocess().items()}
    found = []
    if not model.reads_mixed:
        message = f"{name} does not read the labels of mixed images: it would train on those of the plain ones."
        found.append(Problem(message, WHERE, "Remove it, or use a model that reads them: a classifier."))
    elif len(sizes) > 1 or None in sizes.values():
        listed = ", ".join(sizes)
        found.append(
            Problem(f"Mixing is for models that read one image, and {name} reads {listed}.", WHERE, "Remove it.")
        )
    if max(views.values()) > 1:
        found.append(
            Problem(
                f"Only single views are mixed, and an item has {max(views.values())}.",
                WHERE,
                "Remove it, or set views=1 in train_dataloader.augment.",
            )
        )
    if blocks > 1:
        found.append(
            Problem(
                f"The items of these batches belong together in {blocks} blocks, which mixing would part.",
                WHERE,
                "Remove it, or use another sampler.",
            )
        )
    return found


def pairs_of_one_class(sampler: Sampler, labels: Sequence[int] | None) -> tuple[list[Problem], list[str]]:
    """(why a sampler's neighbours are no pairs to mix, notes): a mix of two images of one class changes no label.

    By the first batches of an epoch, held against pairs drawn at random from all items.

    - `labels`: of the dataset; None where there are none to mix.
    """
    if labels is None:
        return [], []
    same = pairs = 0
    for number in range(min(len(sampler), _BATCHES)):
        found = [int(labels[index]) for index in sampler.batch(number)]
        several = list(zip(found[::PAIR], found[1::PAIR], strict=False))
        same, pairs = same + sum(a == b for a, b in several), pairs + len(several)
    if not same:
        return [], []
    _, sizes = np.unique(np.asarray(labels), return_counts=True)
    by_chance = float(np.square(sizes / sizes.sum()).sum())
    counted = f"{same:,} of the first {pairs:,} pairs of images to mix are of one class"
    if same / pairs > by_chance + _MORE or same == pairs:
        message = f"{counted}, which changes no label: neighbours in the batches of {type(sampler).__name__} are."
        hint = "Remove it, or use core.Shuffled, or a sampler whose neighbours are of different classes."
        return [Problem(message, WHERE, hint)], []
    return [], [f"{counted}."]


def together(loader: dict[str, Any]) -> int:
    """How many consecutive items of a batch must stay in one process, as the recipe's train_dataloader says."""
    return PAIR if loader.get("mix") else 1
