"""A loaded model as its users have it: in which class, and how it computes what they ask for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib import import_module
from typing import Any

from torch import Tensor

from toolbox.base import Batch, Dataset, LoadedModel, Model
from toolbox.engine.data.batch_builder import BatchBuilder, collate, input_specs
from toolbox.engine.data.texts import describe_cut, list_texts
from toolbox.engine.inference import compute_outputs
from toolbox.errors import ToolboxError
from toolbox.utils.messages import shorten_error
from toolbox.utils.model_io import Modality, check_reads_alone


def user_class(model: Model, name: str) -> type[LoadedModel]:
    """The class that a model names by `user_class`; `name`: the model's component, for messages.

    Raises ToolboxError where it cannot be imported or is no LoadedModel, the original exception chained.
    """
    module, _, class_name = model.user_class.partition(":")
    try:
        cls = getattr(import_module(module), class_name)
    except Exception as error:
        raise ToolboxError(
            f"{name} cannot be used: its user_class {model.user_class!r} cannot be imported "
            f"({type(error).__name__}: {shorten_error(error)}).",
            hint="It is 'module:Class'.",
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, LoadedModel)):
        raise ToolboxError(
            f"{name} cannot be used: its user_class {model.user_class!r} is no subclass of toolbox.base.LoadedModel."
        )
    return cls


def compute(
    loaded: LoadedModel,
    dataset: Dataset,
    *,
    batch_size: int = 64,
    progress: bool = False,
    modality: Modality | None = None,
) -> Iterator[dict[str, Tensor]]:
    """What a loaded model gives of each batch of a dataset; arguments as of `LoadedModel.run`."""
    if batch_size < 1:
        raise ToolboxError(f"batch_size is 1 or more, not {batch_size}.")
    if modality is not None:
        check_reads_alone(loaded.model, modality)
    inputs = input_specs(loaded.model, modality=modality)
    builder = BatchBuilder(dataset, inputs, all_texts=True)
    with ExitStack() as ends:
        pool = ends.enter_context(ThreadPoolExecutor())
        fields = {source.field for source in inputs.values()}
        bar = ends.enter_context(_bar(len(dataset), "text" if fields == {"text"} else "image")) if progress else None

        def make_item(index: int) -> dict[str, Any]:
            sample = dataset[index]
            if "text" in fields and "text" in sample:
                try:
                    list_texts(sample["text"])
                except ValueError as error:
                    raise ToolboxError(f"Item {index} cannot be used: {error}.") from error
            # the model is not told its label or role, and whatever is its id stays out of the outputs
            return builder.make_item({**sample, "id": index, "label": None, "role": None}, index, index)

        def read() -> Iterator[Batch]:
            for start in range(0, len(dataset), batch_size):
                places = range(start, min(start + batch_size, len(dataset)))
                yield collate(list(pool.map(make_item, places)), inputs)

        cut = 0
        for batch, outputs in compute_outputs(
            lambda batch: loaded.model(batch, loaded.mode),
            read(),
            inputs=inputs,
            device=loaded.device,
            precision=loaded.precision,
        ):
            cut += sum(batch.cut.values())
            yield outputs or {}
            if bar is not None:
                bar.update(len(batch))
        if cut:
            warnings.warn(describe_cut(cut, f"of {len(dataset):,} items"), stacklevel=2)


def _bar(total: int, unit: str) -> Any:
    from tqdm.auto import tqdm  # which knows notebooks

    return tqdm(total=total, unit=unit)
