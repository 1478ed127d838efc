"""The report items of images and texts that find each other: curves, galleries both ways, outcomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from toolbox.base import Dataset, Example, Gallery, Outcomes, ReportItem
from toolbox.utils.ranking import TIE, full_precision
from toolbox.utils.ranking_charts import make_cosine_histogram, make_recall_curve
from toolbox_alignment.pair_accumulator import ImageTextPairs
from toolbox_alignment.pair_ranking import PairRanking

RESULTS = 10
"""How many results an example shows."""

_SAMPLE = 10_000
"""Other pairs of which a histogram is made."""

Name = Callable[[int], int | str]


def make_pair_items(
    pairs: ImageTextPairs, ranking: PairRanking, dataset: Dataset, ks: Sequence[int], tower: str = ""
) -> list[ReportItem]:
    """The report items of `ranking`, whose pairs are items of `dataset`.

    - `ks`: points of the curve; `tower`: which tower's embeddings they are, for titles; "" for the model's.
    """
    ending = f", {tower}" if tower else ""

    def name_text(number: int) -> str:
        return read_text(dataset, *pairs.sources[number].tolist())

    name_image: Name = pairs.indices.__getitem__
    texts, images = ranking.texts.cpu(), ranking.images.cpu()
    # either side as queries: their rows, those of the others, the matches of each, how a row is shown
    sides = (
        ("image", "text", texts, (pairs.images, pairs.texts, pairs.image_of, pairs.text_of), (name_image, name_text)),
        ("text", "image", images, (pairs.texts, pairs.images, pairs.text_of, pairs.image_of), (name_text, name_image)),
    )
    curve = make_recall_curve({"texts of images": texts, "images of texts": images}, min(len(texts), len(images)), ks)
    note = "Where the two overlap little, a threshold tells matches from others."
    histogram = make_cosine_histogram(f"Similarity of images and texts{ending}", sample_cosines(pairs), note)
    items: list[ReportItem] = [item for item in (curve, histogram) if item is not None]
    for query, found, ranks, rows, names in sides:
        spread = make_examples(choose_spread(ranks, 16), *rows, *names)
        deepest = ranks.argsort(descending=True, stable=True)[:8].tolist()
        worst = [row for row in deepest if ranks[row] > 1]
        notes = [f"first match at rank {int(ranks[row]):,}" for row in worst]
        misses = make_examples(worst, *rows, *names, notes=notes)
        title = f"{query.capitalize()}s and the {found}s found{ending}"
        items.append(Gallery(title, spread, f"Spread evenly over the {query}s, about half of them missed."))
        if misses:
            items.append(Gallery(f"Hardest misses among {query}s{ending}", misses, "Their first match ranks worst."))
    ids = list(map(str, pairs.ids))
    id_of = dict(zip(pairs.indices, ids, strict=True))
    sources = [f"{id_of[item]}, text {number + 1}" for item, number in pairs.sources.tolist()]
    items.append(Outcomes(f"rank of an image's first text{ending}", ids, texts.double().tolist()))
    items.append(Outcomes(f"rank of a text's first image{ending}", sources, images.double().tolist()))
    return items


def read_text(dataset: Dataset, index: int, number: int) -> str:
    """One of the texts of an item."""
    texts = dataset.read(index, ["text"])["text"]
    return str(texts[number] if isinstance(texts, list) else texts)


def sample_cosines(pairs: ImageTextPairs) -> dict[str, Tensor]:
    """{"matching": ..., "other": ...}: cosines of up to `_SAMPLE` pairs each, the others drawn at random."""
    generator = torch.Generator().manual_seed(0)
    place = pairs.images.device
    chosen = torch.randperm(len(pairs.image_of), generator=generator)[:_SAMPLE].to(place)
    image_of = torch.randint(len(pairs.images), (_SAMPLE,), generator=generator).to(place)
    text_of = torch.randint(len(pairs.texts), (_SAMPLE,), generator=generator).to(place)
    count = len(pairs.texts)
    other = ~torch.isin(image_of * count + text_of, pairs.image_of * count + pairs.text_of)
    drawn = {"matching": (pairs.image_of[chosen], pairs.text_of[chosen]), "other": (image_of[other], text_of[other])}
    return {
        name: (pairs.images[images] * pairs.texts[texts]).sum(dim=1).cpu() for name, (images, texts) in drawn.items()
    }


def choose_spread(ranks: Tensor, count: int) -> list[int]:
    """Queries spread evenly over the data, about half of them missed."""
    missed, found = (torch.nonzero(chosen)[:, 0].tolist() for chosen in (ranks > 1, ranks == 1))
    missed = _spread(missed, count // 2)
    return sorted(missed + _spread(found, count - len(missed)))


def make_examples(
    chosen: list[int],
    queries: Tensor,
    candidates: Tensor,
    query_of: Tensor,
    candidate_of: Tensor,
    name_query: Name,
    name_candidate: Name,
    *,
    notes: Sequence[str] = (),
) -> list[Example]:
    """Examples of some queries with what is most similar to them; where it is as similar, what is wrong comes first.

    - `chosen`: rows of `queries` (Q, D); `candidates`: (C, D).
    - `query_of`, `candidate_of`: (P,) the pairs that match; `name_query`, `name_candidate`: how a row is shown.
    - `notes`: one for each example.
    """
    examples = []
    for place, row in enumerate(chosen):
        with full_precision():
            cosines = candidates @ queries[row]
        right = torch.zeros(len(candidates), dtype=torch.bool, device=cosines.device)
        right[candidate_of[query_of == row]] = True
        best = (cosines - TIE * right).topk(min(RESULTS, len(candidates))).indices.tolist()
        results = [(name_candidate(other), bool(right[other]), float(cosines[other])) for other in best]
        examples.append(Example(name_query(row), results, notes[place] if notes else ""))
    return examples


def _spread(rows: list[int], count: int) -> list[int]:
    return rows[:: max(1, -(-len(rows) // max(1, count)))][:count]
