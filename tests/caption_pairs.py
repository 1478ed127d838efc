"""Images and texts that a model might give, and the recall between them by brute force."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch

from toolbox.base import Batch, l2_normalize


def make_texts(items: int, seed: int = 0, shared: int = 6) -> list[list[str]]:
    """1 to 7 texts an item; some stand at several items, or twice at one."""
    generator = np.random.default_rng(seed)
    texts = []
    for item in range(items):
        own = [f"text {item} {number}" for number in range(generator.integers(1, 8))]
        if item % 3 == 0:
            own[0] = f"shared {generator.integers(shared)}"
        if item % 5 == 0:
            own.append(own[-1])
        texts.append(own)
    return texts


def encode(texts: list[list[str]], dim: int = 8, seed: int = 1, noise: float = 0.7):
    """Embeddings of the images, and of each text by its name: near the first image that has it."""
    generator = torch.Generator().manual_seed(seed)
    images = l2_normalize(torch.randn(len(texts), dim, generator=generator))
    of_text: dict[str, torch.Tensor] = {}
    for item, own in enumerate(texts):
        for text in own:
            of_text.setdefault(text, l2_normalize(images[item] + noise * torch.randn(dim, generator=generator)))
    return images, of_text


def show(take, texts, images, of_text, *, batch_size: int = 7, order=None, names=("embeddings", "text_embeddings")):
    """Give `take`, a metric's update or fit, the outputs of a model that gives these embeddings, batch by batch."""
    items = list(range(len(texts))) if order is None else order
    numbers = {text: 5 * number - 40 for number, text in enumerate(of_text)}
    for start in range(0, len(items), batch_size):
        chosen = items[start : start + batch_size]
        own = [text for item in chosen for text in texts[item]]
        owners = torch.tensor([place for place, item in enumerate(chosen) for _ in texts[item]])
        batch = Batch(
            ids=[f"item {item}" for item in chosen],
            indices=chosen,
            owners={"text": owners},
            texts={"text": torch.tensor([numbers[text] for text in own])},
        )
        take({names[0]: images[chosen], names[1]: torch.stack([of_text[text] for text in own])}, batch)


def brute_force(texts, images, of_text, ks=(1, 5, 10)) -> dict[str, float]:
    """The same numbers by sorting, one query after another."""
    names = list(of_text)
    table = (images @ torch.stack([of_text[name] for name in names]).T).double().numpy()
    owners = defaultdict(set)
    for item, own in enumerate(texts):
        for text in own:
            owners[names.index(text)].add(item)
    rights = np.array([[item in owners[number] for number in range(len(names))] for item in range(len(texts))])
    numbers = {}
    for way, scores, right in (("i2t", table, rights), ("t2i", table.T, rights.T)):
        ranks = []
        for row, good in zip(scores, right, strict=True):
            order = sorted(range(len(row)), key=lambda place: (-round(row[place], 6), bool(good[place])))
            ranks.append(1 + sum(1 for place in order[: [bool(good[p]) for p in order].index(True)] if not good[place]))
        for k in ks:
            if k <= scores.shape[1]:
                numbers[f"{way}_recall@{k}"] = float(np.mean([rank <= k for rank in ranks]))
    numbers = {"mean_recall": float(np.mean(list(numbers.values())))} | numbers
    numbers["similarity_matching"] = float(table[rights].mean())
    numbers["similarity_other"] = float(table[~rights].mean())
    return numbers
