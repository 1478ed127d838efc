"""From draws to a batch: items are read, augmented by their own seed, preprocessed and collated, in the workers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from toolbox.base import Augment, Batch, Dataset, Mix, Model, Preprocess, Sample
from toolbox.engine.data.bad_items import Unreadable, unreadable_error
from toolbox.engine.data.mixing import STREAM, mix_pairs
from toolbox.engine.data.samples import read_sample
from toolbox.engine.data.structures import map_tensors
from toolbox.engine.data.texts import digest_text, list_texts
from toolbox.engine.data.workers import WorkerStatus
from toolbox.errors import Problem, ToolboxError
from toolbox.feature_cache.feature_store import FeatureStore
from toolbox.feature_cache.views import choose_text, choose_view, get_draw
from toolbox.utils.messages import shorten_error

_MOST_TRIED = 8
"""How many items are read at most to see what items are made of."""


@dataclass
class InputSpec:
    """How one entry of `batch.inputs` is made: the sample's field, and the backbone's own conversion."""

    field: str
    preprocess: Preprocess


def input_specs(model: Model, *, training: bool = False, modality: str | None = None) -> dict[str, InputSpec]:
    """The conversions of a model's inputs, picklable and without the modules.

    - `training`: also of a teacher's; `modality`: of the inputs of one modality alone.
    """
    return {
        name: InputSpec(model.inputs[name].modality, preprocess)
        for name, preprocess in model.preprocess().items()
        if (training or name not in model.training_only) and modality in (None, model.inputs[name].modality)
    }


def select_inputs(
    inputs: dict[str, InputSpec], dataset: Dataset, *, reads_modalities_alone: bool
) -> dict[str, InputSpec]:
    """Those of a model's inputs that the items of a dataset bring, where the model can be given them alone; else all.

    A dual encoder is so evaluated on images without texts. The first item that can be read tells.
    """
    fields = {source.field for source in inputs.values()}
    if not reads_modalities_alone or len(fields) < 2:
        return inputs
    for index in range(min(len(dataset), _MOST_TRIED)):
        with suppress(OSError, ValueError, ToolboxError):  # told when it is read for a batch
            sample = read_sample(dataset, index, fields)
            return {name: source for name, source in inputs.items() if source.field in sample} or inputs
    return inputs


class BatchBuilder(torch.utils.data.Dataset):
    """Turns the draws of a batch into the batch; lives in the worker processes.

    - `dataset`, `augment`: where items come from and their random views: one for all inputs, or {input name: augment};
      None leaves them as they are.
    - `inputs`: what `input_specs` returned.
    - `seed`: the run's seed; an item's randomness depends on (seed, draw) alone.
    - `blocks`: how many equally long blocks the sampler's batches consist of.
    - `skip_bad`: leave unreadable items out and name them in `batch.bad`; else a batch with any is `Unreadable`.
    - `stored`: {input: its features}, taken a batch at a time; where all inputs are stored no item is read.
    - `streams`: {input: which stream of randomness it has}; default: one for all, or one for each augment.
    - `mix`: mixes the images of a batch in pairs; None leaves them as they are.
    - `all_texts`: read all texts of an item, as evaluation and stores do, instead of the one that its draw chooses.
    """

    def __init__(
        self,
        dataset: Dataset,
        inputs: dict[str, InputSpec],
        *,
        augment: Augment | dict[str, Augment] | None = None,
        seed: int = 0,
        blocks: int = 1,
        skip_bad: bool = False,
        stored: Mapping[str, FeatureStore] | None = None,
        streams: dict[str, int] | None = None,
        mix: Mix | None = None,
        all_texts: bool = False,
    ) -> None:
        self.dataset, self.inputs, self.all_texts = dataset, inputs, all_texts
        self.stored = {name: store for name, store in (stored or {}).items() if name in inputs}
        self.live = {name: source for name, source in inputs.items() if name not in self.stored}
        self._fields = {source.field for source in self.live.values()}
        self.unstored = {index: text for store in self.stored.values() for index, text in store.unreadable.items()}
        self.calls = max((store.calls for store in self.stored.values()), default=1)
        self.augment = augment if isinstance(augment, dict) else dict.fromkeys(inputs, augment)
        # one augment gives all inputs the same view; one for each gives them views of their own
        self.streams = streams or {name: i if isinstance(augment, dict) else 0 for i, name in enumerate(sorted(inputs))}
        self.seed, self.blocks, self.skip_bad, self.mix = seed, blocks, skip_bad, mix
        self.board: WorkerStatus | None = None

    def __getitem__(self, draws: list[tuple[int, int]]) -> Batch | Problem | Unreadable:
        draws = [(int(draw), int(index)) for draw, index in draws]  # a sampler may count with NumPy
        if self.stored and not self.live and not (self.unstored and any(index in self.unstored for _, index in draws)):
            return self._stored_batch([], draws, [])
        items: list[dict[str, Any]] = []
        bad: list[tuple[int, str]] = []
        with _random_state_kept():
            for draw, index in draws:
                if self.board is not None:
                    self.board.reading(draw, index)
                try:
                    if index in self.unstored:
                        raise OSError(self.unstored[index])
                    items.append(self.read_item(draw, index) if self.live else {"draw": draw, "index": index})
                except (OSError, ValueError) as error:
                    bad.append((index, str(error) or type(error).__name__))
                except ToolboxError as error:  # a sample that is none, whatever may be skipped
                    return error.problems[0]
                except Exception as error:  # a defect of the dataset, say: it keeps its traceback
                    error.add_note(f"This happened at item {index} of {type(self.dataset).__name__}.")
                    raise
        if bad and not self.skip_bad:
            return Unreadable(bad)
        if self.board is not None and draws:
            self.board.collating(draws[0][0])
        if self.blocks > 1 and bad:
            items = _whole_rows(items, {index for index, _ in bad}, draws, self.blocks)
        try:
            if self.stored:
                batch = self._stored_batch(items, [(item["draw"], item["index"]) for item in items], bad)
            else:
                batch = collate(items, self.inputs, self.blocks, bad)
        except Exception as error:
            listed = ", ".join(str(item["index"]) for item in items)
            error.add_note(f"This happened as items {listed} of {type(self.dataset).__name__} became a batch.")
            raise
        if self.mix is not None and items:
            place_of = {draw: place for place, (draw, _) in enumerate(draws)}
            with _random_state_kept():
                wrong = mix_pairs(
                    batch,
                    [place_of[item["draw"]] for item in items],
                    draws,
                    self.mix,
                    lambda draw: _seed_item(self.seed, draw, STREAM),
                )
            if wrong:
                return wrong
        problem = _share_memory(batch) if get_worker_info() else None
        if self.board is not None:
            self.board.idle()
        return problem or batch

    def require_batch(self, result: Batch | Problem | Unreadable, where: str = "") -> Batch:
        """The batch that `self[draws]` gave. Raises ToolboxError where it gave none; `where`: the dataloader's key."""
        if isinstance(result, Unreadable):
            raise unreadable_error(self.dataset, result.items, where=where, read=self.check_item)
        if isinstance(result, Problem):
            raise ToolboxError.from_problems([result.with_prefix(where) if where else result])
        return result

    def _stored_batch(
        self, items: list[dict[str, Any]], draws: list[tuple[int, int]], bad: list[tuple[int, str]]
    ) -> Batch:
        """A batch with stored features, beside live inputs collated from `items`."""
        if not draws:
            return Batch(blocks=self.blocks, bad=bad)
        indices = [index for _, index in draws]
        if self.live:
            batch = collate(items, self.live, self.blocks, bad)
        else:
            first = next(iter(self.stored.values()))
            roles = [role for index in indices if (role := first.roles[index]) is not None]  # of all items or of none
            batch = Batch(
                labels=first.get_labels(indices),
                ids=[first.ids[index] for index in indices],
                indices=indices,
                draws=[draw for draw, _ in draws],
                roles=roles or None,
                blocks=self.blocks,
                bad=bad,
            )
        for name, store in self.stored.items():
            if store.row_counts is not None:
                self._add_stored_texts(batch, name, store, store.row_counts[indices])
                continue
            images = store.views // store.calls
            view = choose_view(self.seed, [draw for draw, _ in draws], store.calls) * images
            batch.inputs[name] = torch.cat([store.rows(indices, view + image) for image in range(images)])
            batch.views[name] = images
        batch.stored = sorted(self.stored)
        return batch

    def _add_stored_texts(self, batch: Batch, name: str, store: FeatureStore, counts: np.ndarray) -> None:
        """Add an input that holds stored texts, of which each item of the batch has so many."""
        owners, numbers = np.arange(len(counts)), choose_text(self.seed, batch.draws, counts)
        if self.all_texts:
            owners = np.repeat(owners, counts)
            numbers = np.concatenate([np.arange(count) for count in counts])
        rows = np.asarray(batch.indices)[owners]
        batch.inputs[name], batch.texts[name] = store.rows(rows, numbers), store.texts_of(rows, numbers)
        batch.owners[name], batch.views[name] = torch.from_numpy(owners), 1

    def read_item(self, draw: int, index: int) -> dict[str, Any]:
        """An item, augmented and preprocessed, for `collate`."""
        return self.make_item(read_sample(self.dataset, index, self._fields), draw, index)

    def check_item(self, index: int) -> None:
        """Read an item as it is read for a batch. Raises OSError or ValueError where it cannot be."""
        sample = read_sample(self.dataset, index, self._fields)
        if "text" in self._fields:
            list_texts(sample.get("text"))

    def make_item(self, sample: Sample, draw: int, index: int) -> dict[str, Any]:
        """The item of a sample, augmented and preprocessed, for `collate`."""
        item = {"label": sample["label"], "id": sample["id"], "index": index, "draw": draw}
        item |= {"role": sample.get("role"), "texts": {}}
        text_draw = draw
        if self.calls > 1:  # what is live sees what is stored beside it
            draw = get_draw(index, int(choose_view(self.seed, [draw], self.calls)[0]), len(self.dataset))
        for name, source in self.live.items():
            if source.field not in sample:
                whole = self.dataset[index]
                raise ToolboxError(
                    f"The model reads '{source.field}', and an item has {', '.join(whole) or 'nothing'}.",
                    where="dataset",
                    hint="Use a dataset that has it, or another model.",
                )
            value = sample[source.field]
            if source.field == "text":
                texts = list_texts(value)
                if not self.all_texts:
                    texts = [texts[choose_text(self.seed, [text_draw], [len(texts)])[0]]]
                item[name] = [source.preprocess(text) for text in texts]
                item["texts"][name] = [digest_text(text) for text in texts]
                continue
            augment = self.augment.get(name)
            preprocess = source.preprocess
            if augment is not None and preprocess.size is not None:
                _seed_item(self.seed, draw, self.streams[name])
                value, preprocess = augment(value, preprocess.size), preprocess.uncut()
            views = value if isinstance(value, list) and preprocess.size is not None else [value]
            item[name] = [preprocess(view) for view in views]
        return item


def _whole_rows(items: list[dict], bad: set[int], draws: list[tuple[int, int]], blocks: int) -> list[dict]:
    """Leave out every row of which one item could not be read, so that blocks stay aligned."""
    rows = len(draws) // blocks
    broken = {position % rows for position, (_, index) in enumerate(draws) if index in bad}
    keep = {draw for position, (draw, _) in enumerate(draws) if position % rows not in broken}
    return [item for item in items if item["draw"] in keep]


def collate(
    items: list[dict], inputs: dict[str, InputSpec], blocks: int = 1, bad: Sequence[tuple[int, str]] = ()
) -> Batch:
    """A batch of items as `BatchBuilder.read_item` gives them."""
    if not items:
        return Batch(blocks=blocks, bad=list(bad))
    texts = items[0]["texts"].keys()
    views = {name: 1 if name in texts else len(items[0][name]) for name in inputs}
    # texts item by item, and images view-major: every item's first view, then every item's second
    rows = {
        name: [row for item in items for row in item[name]]
        if name in texts
        else [item[name][view] for view in range(views[name]) for item in items]
        for name in inputs
    }
    counts = {name: torch.tensor([len(item[name]) for item in items]) for name in texts}
    labels = [item["label"] for item in items]
    roles = None if items[0]["role"] is None else [item["role"] for item in items]
    return Batch(
        inputs={name: source.preprocess.collate(rows[name]) for name, source in inputs.items()},
        views=views,
        owners={name: torch.arange(len(items)).repeat_interleave(counts[name]) for name in texts},
        texts={name: torch.tensor([digest for item in items for digest in item["texts"][name]]) for name in texts},
        cut={name: sum(map(inputs[name].preprocess.is_cut, rows[name])) for name in texts},
        labels=None if None in labels else torch.tensor(labels),
        roles=roles,
        ids=[item["id"] for item in items],
        indices=[item["index"] for item in items],
        draws=[item["draw"] for item in items],
        blocks=blocks,
        bad=list(bad),
    )


def _share_memory(batch: Batch) -> Problem | None:
    """Put a batch's tensors into shared memory. Torch would do it later, where a failure is only printed."""
    try:
        map_tensors(batch, lambda tensor: tensor.share_memory_() if _can_share(tensor) else tensor)
    except (RuntimeError, OSError) as error:
        return Problem(
            f"A batch finds no room in the memory that data workers share (/dev/shm): {shorten_error(error)}.",
            hint="Fewer workers or a smaller prefetch_factor need less, and num_workers=0 needs none; a container gets "
            "more with --shm-size or --ipc=host.",
        )
    return None


def _can_share(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() > 0


def _seed_item(seed: int, draw: int, stream: int) -> None:
    """Python's, NumPy's and torch's CPU generators, from these numbers alone."""
    words = np.random.SeedSequence((seed, draw, stream)).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.default_generator.manual_seed(int(words[2]))


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Leave the process's generators as they were: without workers they are the model's."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
