"""The contracts of what makes batches: datasets, samplers, augmentations, and what mixes images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image

from toolbox.base import Augment, Dataset, Mix, Sampler
from toolbox.testing.material import LabelledImages, is_same, make_image, require, seed_everything


def check_dataset(make: Callable[[], Dataset], *, limit: int = 50) -> None:
    """Check a dataset against `toolbox.base.Dataset`; raises AssertionError that names the broken contract.

    - `make`: returns a new instance at every call; its files must be there.
    - `limit`: how many items are read, spread evenly over the dataset.
    """
    dataset = make()
    name = type(dataset).__name__
    require(isinstance(dataset, Dataset), f"{name} must be a subclass of toolbox.base.Dataset.")
    problems = dataset.check()
    require(not problems, f"{name}.check() finds: {'; '.join(map(str, problems))}")
    count = len(dataset)
    require(count > 0, f"{name} must hold at least one item.")
    labels, classes, groups = dataset.labels, dataset.classes, dataset.groups
    for attribute, values in (("labels", labels), ("groups", groups)):
        require(values is None or len(values) == count, f"{name}.{attribute} must have one value per item: {count}.")
    require((labels is None) == (classes is None), f"{name}: labels and classes go together.")
    if labels is not None and classes is not None:
        require(
            all(0 <= int(label) < len(classes) for label in labels),
            f"{name}.labels must index into its {len(classes)} classes.",
        )
        require(len(set(classes)) == len(classes), f"{name}.classes must be different names.")

    other = make()
    require(len(other) == count, f"{name} must have the same length in every instance.")
    identities = dataset.identities()
    require(
        identities is None or (len(identities) == count and all(isinstance(text, str) for text in identities)),
        f"{name}.identities must have one string per item.",
    )
    require(identities == other.identities(), f"{name}.identities must be the same in every instance.")
    ids = set()
    for index in sorted({round(i * (count - 1) / max(limit - 1, 1)) for i in range(min(limit, count))}):
        seed_everything(0)
        sample = dataset[index]
        seed_everything(1)
        _check_sample(sample, name)
        require(
            is_same(sample, dataset[index]), f"{name}: item {index} must be the same at every call, without chance."
        )
        require(is_same(sample, other[index]), f"{name}: item {index} must be the same in every instance.")
        for field in sorted(sample.keys() & {"image", "text"}):
            part = dataset.read(index, {field})
            kept = {key: sample[key] for key in ("id", "label", "role", field) if key in sample}
            require(
                is_same({key: part.get(key) for key in kept}, kept),
                f"{name}: read({index}, {{'{field}'}}) must give the '{field}', id, label and role of item {index}.",
            )
        if labels is not None:
            require(sample.get("label") == labels[index], f"{name}: the label of item {index} must be labels[{index}].")
        require(sample["id"] not in ids, f"{name}: the id {sample['id']!r} stands twice; ids are unique.")
        ids.add(sample["id"])


def _check_sample(sample: dict, name: str) -> None:
    require(isinstance(sample, dict), f"{name}: an item must be a dict.")
    require(isinstance(sample.get("id"), (int, str)), f"{name}: an item needs an 'id', an int or a string.")
    require("image" in sample or "text" in sample, f"{name}: an item needs an 'image' or a 'text'.")
    image = sample.get("image")
    require(
        image is None or (isinstance(image, Image.Image) and image.mode == "RGB"),
        f"{name}: 'image' must be a PIL image in RGB.",
    )
    text = sample.get("text")
    captions = text if isinstance(text, list) else [text]
    require(
        text is None or (bool(captions) and all(isinstance(one, str) and one.strip() for one in captions)),
        f"{name}: 'text' must be a string or a list of strings, none of them empty.",
    )


def check_sampler(make: Callable[[], Sampler], dataset: Dataset | None = None) -> None:
    """Check a sampler against `toolbox.base.Sampler`; raises AssertionError that names the broken contract.

    - `make`: returns a new instance at every call.
    - `dataset`: what it samples from; default 40 labelled images in 8 classes of 1 to 8.
    """
    dataset = LabelledImages() if dataset is None else dataset
    name = type(make()).__name__
    require(isinstance(make(), Sampler), f"{name} must be a subclass of toolbox.base.Sampler.")

    def ready(seed: int = 0) -> Sampler:
        sampler = make()
        sampler.setup(dataset, seed)
        return sampler

    sampler = ready()
    epoch = len(sampler)
    require(epoch > 0, f"{name} must have at least one batch in an epoch.")
    numbers = range(2 * epoch + 1)
    seed_everything(0)
    batches = [sampler.batch(number) for number in numbers]
    for batch in batches:
        require(
            isinstance(batch, list) and all(type(index) is int for index in batch),
            f"{name}.batch must return a list of Python ints.",
        )
        require(all(0 <= index < len(dataset) for index in batch), f"{name}.batch must index into the dataset.")
        require(
            0 < len(batch) <= sampler.batch_size,
            f"{name}.batch must hold 1 to batch_size={sampler.batch_size} indices, not {len(batch)}.",
        )
        require(
            len(batch) % sampler.blocks == 0,
            f"{name}: a batch must consist of blocks={sampler.blocks} equally long blocks.",
        )

    seed_everything(1)
    require(
        [sampler.batch(number) for number in reversed(numbers)] == batches[::-1],
        f"{name}.batch must depend on its number alone, not on earlier calls or on global generators.",
    )
    for number in (numbers[-1], epoch // 2):
        require(
            ready().batch(number) == batches[number],
            f"{name} must start anywhere: batch {number} of a new instance differs.",
        )
    draws = [draw for number in numbers for draw, _ in sampler.draws(number)]
    require(len(set(draws)) == len(draws), f"{name}.draws must give every item of the run its own number.")
    require(
        [index for _, index in sampler.draws(0)] == batches[0],
        f"{name}.draws must hold the indices of batch, in order.",
    )
    notes = sampler.notes()
    require(isinstance(notes, list) and all(isinstance(n, str) for n in notes), f"{name}.notes must list strings.")


def check_augment(make: Callable[[], Augment]) -> None:
    """Check an augmentation against `toolbox.base.Augment`; raises AssertionError that names the broken contract.

    - `make`: returns a new instance at every call.
    """
    augment = make()
    name = type(augment).__name__
    require(isinstance(augment, Augment), f"{name} must be a subclass of toolbox.base.Augment.")
    counts: set[int | None] = set()
    for seed, original in enumerate(((40, 60), (33, 33), (90, 20), (8, 9))):
        image = make_image(original, seed)
        before = image.tobytes()
        seed_everything(seed)
        views = augment(image, (32, 48))
        seed_everything(seed + 1)
        augment(image, (32, 48))
        seed_everything(seed)
        require(
            is_same(views, make()(image, (32, 48))),
            f"{name} must be repeatable: with Python's, NumPy's and torch's generators seeded alike, the views differ.",
        )
        require(image.tobytes() == before, f"{name} must leave the image that it is given as it is.")
        for view in views if isinstance(views, list) else [views]:
            require(
                isinstance(view, Image.Image) and view.mode == "RGB" and min(view.size) > 0,
                f"{name} must return a PIL image in RGB, or a list of them.",
            )
        counts.add(len(views) if isinstance(views, list) else None)
    require(counts != {0} and len(counts) == 1, f"{name} must return the same number of views for every image.")


def check_mix(make: Callable[[], Mix]) -> None:
    """Check what mixes images against `toolbox.base.Mix`; raises AssertionError that names the broken contract.

    - `make`: returns a new instance at every call.
    """
    mix = make()
    name = type(mix).__name__
    require(isinstance(mix, Mix), f"{name} must be a subclass of toolbox.base.Mix.")
    for seed, (height, width) in enumerate([(8, 12), (5, 5), (1, 3), *[(16, 16)] * 20]):
        generator = torch.Generator().manual_seed(seed)
        image, partner = (255 * torch.rand(3, height, width, generator=generator) for _ in range(2))
        before = image.clone(), partner.clone()
        seed_everything(seed)
        mixed, share = mix(image, partner)
        seed_everything(seed + 1)
        mix(image, partner)
        seed_everything(seed)
        again, other = make()(image, partner)
        require(
            isinstance(share, float) and 0 <= share <= 1,
            f"{name} must return the image's share of the mixed one, a float from 0 to 1, not {share!r}.",
        )
        require(mixed.shape == image.shape, f"{name} must keep the shape {tuple(image.shape)}.")
        require(
            mixed.dtype == image.dtype and bool(mixed.isfinite().all()),
            f"{name} must return finite numbers of the type that it was given.",
        )
        require(
            torch.equal(mixed, again) and share == other,
            f"{name} must be repeatable: with Python's, NumPy's and torch's generators seeded alike, results differ.",
        )
        require(
            torch.equal(image, before[0]) and torch.equal(partner, before[1]),
            f"{name} must leave the images that it is given as they are.",
        )
