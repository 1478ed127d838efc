"""The model of alignment recipes: towers of images and towers of texts that share a space."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from toolbox.base import Backbone, Batch, Loss, Model, PooledBackbone, gather, l2_normalize
from toolbox.plugin import Problem
from toolbox.utils.tower import Tower
from toolbox_alignment.pairs import check_names, list_pairs, read_weights
from toolbox_alignment.tower_dropout import choose_kept

Compare = Literal["pairs", "fused"]
Positives = Literal["texts", "labels", "items"]
IMAGE, TEXT = "embeddings", "text_embeddings"


class DualEncoder(Model):
    """Any number of image towers and of text towers, trained so that what belongs together is alike.

        model = dict(
            type='alignment.DualEncoder',
            vision=dict(image=dict(backbone=dict(type='dinov3.ViT', name='vitb16'), head=dict(type='core.Projection'))),
            text=dict(text=dict(backbone=dict(type='qwen3.Embedding', name='0.6b'), pool='last',
                                head=dict(type='core.Projection'))),
            loss=dict(type='losses.CLIP'))

    - `vision`: {name: tower} of backbones that read images; `text`: {name: tower} of those that read texts. Names are
      those of the model's inputs, and of its parts, `model.vision.image`. Towers that are compared give embeddings of
      one width. A text tower without head keeps the space of its backbone: images are projected into it, and an index
      of texts stays valid.
    - `loss`: compares images with texts; each pair of towers, such as "image-text", has a copy of it with parameters of
      its own, the part `model.criterion.image-text`. None for a model that is only evaluated.
    - `losses`: {pair: loss} for pairs that have another one.
    - `weights`: {pair: weight}, at least 0; 1 where nothing is said. The loss is the weighted mean over pairs.
    - `compare`: what the loss compares with several towers: "pairs", each image tower with each text tower; "fused",
      the mean direction of all image towers with that of all text towers, as the one pair "image-text".
    - `positives`: which image and text of a batch belong together, beside those of one item: "texts", where texts are
      equal; "labels", where labels are equal; "items", no others.
    - `tower_dropout`: the probability, below 1, that a tower takes no part in a step, so that each learns to do without
      the others; one tower a side always takes part. Only with several towers.

    `predict` gives {"embeddings": (B, E), "text_embeddings": (R, E)}, float32 rows of length 1, of the inputs that it
    is given: the mean direction of the towers of a side. With several towers, "embeddings_NAME" and
    "text_embeddings_NAME" are those of a single one. `baseline` gives the same of the pooled features without heads;
    those of several towers are concatenated. Beside "loss", a step logs "chance", its value where the model tells
    nothing apart, "scale", what each loss has learned, and "repeated_texts", the share of rows whose text another row
    of the batch has; with several pairs "loss_PAIR", "chance_PAIR" and "scale_PAIR". Raises ValueError where names,
    pairs and widths do not fit.
    """

    reads_modalities_alone = True
    user_class = "toolbox_alignment.image_text_encoder:ImageTextEncoder"

    def __init__(
        self,
        vision: dict[str, Tower],
        text: dict[str, Tower],
        loss: Loss | None = None,
        losses: dict[str, Loss] | None = None,
        weights: dict[str, float] | None = None,
        compare: Compare = "pairs",
        positives: Positives = "texts",
        tower_dropout: float = 0.0,
    ):
        super().__init__()
        for name, value, choices in (("compare", compare, Compare), ("positives", positives, Positives)):
            if value not in get_args(choices):
                raise ValueError(f"{name}={value!r} does not exist. Try one of {', '.join(get_args(choices))}.")
        check_names(vision, text)
        if not 0 <= tower_dropout < 1:
            raise ValueError(f"tower_dropout={tower_dropout} is a probability, at least 0 and below 1.")
        if tower_dropout and len(vision) == len(text) == 1:
            raise ValueError("tower_dropout needs several towers on a side: with one on each there is none to drop.")
        self.compare, self.positives, self.tower_dropout = compare, positives, tower_dropout
        self.vision, self.text = nn.ModuleDict(vision), nn.ModuleDict(text)
        self.pairs = list_pairs(vision, text) if compare == "pairs" else {"image-text": ("", "")}
        self.weights = read_weights(weights, self.pairs)
        self.criterion = nn.ModuleDict(_assign_losses(self.pairs, loss, losses or {}))
        self._kept = frozenset(self.towers)

    @property
    def towers(self) -> dict[str, Tower]:
        """All towers by the names of their inputs, those of images first."""
        return {name: tower for side in (self.vision, self.text) for name, tower in side.items()}  # type: ignore[misc]

    @property
    def losses(self) -> dict[str, Loss]:
        """The loss of each pair; empty without any."""
        return dict(self.criterion.items())  # type: ignore[arg-type]

    @property
    def inputs(self) -> dict[str, Backbone]:
        return {name: tower.backbone for name, tower in self.towers.items()}

    def pooled_backbones(self) -> dict[str, PooledBackbone]:
        return {name: tower.pooled_backbone for name, tower in self.towers.items()}

    def connect(self, classes: int | None = None) -> None:
        towers = self.towers
        for tower in towers.values():
            tower.connect(classes)
        widths = {name: tower.out_dim for name, tower in towers.items()}
        if len(set(widths.values())) > 1:
            listed = ", ".join(f"{name} {width}" for name, width in widths.items())
            raise ValueError(
                f"towers that are compared give embeddings of one width, and these give: {listed}. "
                "Set the same dim in their heads; a tower without head has the width of its pooled features."
            )
        for criterion in self.losses.values():
            criterion.connect(next(iter(widths.values())), classes)

    def check(self) -> list[Problem]:
        problems = []
        if not self.criterion:
            hint = "Set it, e.g. to dict(type='losses.CLIP')."
            problems.append(Problem("A model without a loss cannot be trained.", "loss", hint))
        for criterion in self.losses.values():
            name = type(criterion).__name__
            if criterion.reads_logits or criterion.reads_tokens or criterion.needs_teacher:
                what = "logits" if criterion.reads_logits else "tokens" if criterion.reads_tokens else "a teacher"
                hint = "Use losses.CLIP, losses.SigLIP or another one of two views."
                problems.append(Problem(f"{name} reads {what}, and this model gives embeddings.", "loss", hint))
        return problems

    def before_step(self, step: int, steps: int) -> None:
        if self.tower_dropout:
            sides = list(self.vision), list(self.text)
            self._kept = choose_kept(sides, self.tower_dropout, seed=self.seed, step=step)

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        return {
            name: tower.apply_head(self.pool_features(batch, name))
            for name, tower in self.towers.items()
            if name in batch.inputs
        }

    def compute_loss(self, representations: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        if not self.criterion:
            raise ValueError("this model has no loss: set model.loss to train it")
        _check_rows(batch)
        losses = {}
        if self.compare == "fused":
            images, texts = (
                {name: representations[name] for name in side if name in self._kept}
                for side in (self.vision, self.text)
            )
            losses["image-text"] = self._compare("image-text", fuse(images), fuse(texts), next(iter(texts)), batch)
        else:
            for pair in self._choose_pairs():
                image, text = self.pairs[pair]
                losses[pair] = self._compare(pair, representations[image], representations[text], text, batch)
        total = sum(self.weights[pair] for pair in losses)
        loss = sum(self.weights[pair] * value for pair, value in losses.items()) / total
        assert isinstance(loss, Tensor)
        # what takes no part gets gradients of zero: other processes wait for them, and none would be a change
        compared = self._kept if self.compare == "fused" else {name for pair in losses for name in self.pairs[pair]}
        idle = [rows for name, rows in representations.items() if name not in compared]
        absent = (criterion for pair, criterion in self.losses.items() if pair not in losses)
        idle += [value for criterion in absent for value in criterion.parameters()]
        for values in idle:
            loss = loss + 0 * values.sum()
        digests = _gather_digests(batch, loss.device)
        return {"loss": loss, "repeated_texts": _share_repeated(digests)} | self._describe_pairs(losses, len(digests))

    def _choose_pairs(self) -> list[str]:
        """The pairs of towers that take part in a step; all where those that do are compared in none."""
        pairs = [pair for pair, weight in self.weights.items() if weight]
        return [pair for pair in pairs if self._kept.issuperset(self.pairs[pair])] or pairs

    def _compare(self, pair: str, images: Tensor, texts: Tensor, text: str, batch: Batch) -> Tensor:
        """The loss of two towers' rows, (V * B, E) and (B, E): the mean over the V views of images."""
        if self.positives == "labels" and batch.labels is None:
            raise ValueError("positives='labels' needs labels, and this batch has none: use positives='texts'")
        labels = {"texts": batch.texts.get(text), "labels": batch.labels, "items": None}[self.positives]
        criterion = self.losses[pair]
        views = images.split(len(texts))
        return torch.stack([criterion(view, labels, ref_embeddings=texts, ref_labels=labels) for view in views]).mean()

    def _describe_pairs(self, losses: Mapping[str, Tensor], items: int) -> dict[str, Tensor]:
        """What is logged of the pairs that took part in a step, over the `items` of all processes."""
        outputs: dict[str, Tensor] = {}
        for pair, value in losses.items():
            criterion = self.losses[pair]
            ending = "" if len(self.pairs) == 1 else f"_{pair}"
            if ending:
                outputs[f"loss{ending}"] = value.detach()
            level = criterion.chance_level(items)
            if level is not None:
                outputs[f"chance{ending}"] = value.new_full((), level)
            if scales := list_scales(criterion):
                outputs[f"scale{ending}"] = scales[0]
        return outputs

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        rows = self.encode(batch)
        outputs: dict[str, Tensor] = {}
        for output, side in ((IMAGE, self.vision), (TEXT, self.text)):
            given = {name: rows[name] for name in side if name in rows}
            if not given:
                continue
            outputs[output] = fuse(given).float()
            if len(given) > 1:
                outputs |= {f"{output}_{name}": l2_normalize(value.float()) for name, value in given.items()}
        return outputs

    def baseline(self, batch: Batch) -> dict[str, Tensor]:
        outputs = {}
        for output, side in ((IMAGE, self.vision), (TEXT, self.text)):
            rows = {
                name: l2_normalize(self.pool_features(batch, name).float()) for name in side if name in batch.inputs
            }
            if rows:
                outputs[output] = l2_normalize(torch.cat(list(rows.values()), dim=1))
            if len(rows) > 1:
                outputs |= {f"{output}_{name}": value for name, value in rows.items()}
        return outputs


def fuse(rows: Mapping[str, Tensor]) -> Tensor:
    """The mean direction of several towers' embeddings, (rows, E) each, as rows of length 1.

    Each is made a direction first, so that none counts more for being longer; the mean of directions is shorter than
    they are, which would lower the temperature of the loss, so it is made one again.
    """
    directions = [l2_normalize(value if value.dtype == torch.float64 else value.float()) for value in rows.values()]
    return directions[0] if len(directions) == 1 else l2_normalize(torch.stack(directions).mean(dim=0))


def list_scales(criterion: nn.Module) -> list[Tensor]:
    """What cosines are multiplied by, as learned by the losses in a module; empty where none learns a scale."""
    return [value.detach().exp() for name, value in criterion.named_parameters() if name.endswith("log_scale")]


def _assign_losses(
    pairs: Mapping[str, tuple[str, str]], loss: Loss | None, losses: Mapping[str, Loss]
) -> dict[str, nn.Module]:
    """The loss of each pair, parameters of its own; empty where there is none at all."""
    if unknown := sorted(set(losses) - set(pairs)):
        raise ValueError(f"losses names the pair {unknown[0]!r}, and there are: {', '.join(pairs)}.")
    if loss is None and not losses:
        return {}
    if loss is None and (missing := [pair for pair in pairs if pair not in losses]):
        raise ValueError(f"the pair {missing[0]!r} has no loss: set loss, for all that losses does not name.")
    return {pair: losses[pair] if pair in losses else copy.deepcopy(loss) for pair in pairs}  # type: ignore[misc]


def _check_rows(batch: Batch) -> None:
    """Raise ValueError where an item has several texts, as in evaluation: a loss compares one with each image."""
    for name, owners in batch.owners.items():
        if len(owners) != len(batch):
            raise ValueError(f"{len(owners)} texts of {len(batch)} items as {name!r}: a loss compares one with each")


def _gather_digests(batch: Batch, device: torch.device) -> Tensor:
    """(items of all processes,) int64: what tells apart the texts that the first text tower read."""
    texts = next(iter(batch.texts.values()), None)
    if texts is not None:
        return gather(texts)
    everything = gather(torch.zeros(len(batch), dtype=torch.int64, device=device))
    return torch.arange(len(everything), device=device)


def _share_repeated(digests: Tensor) -> Tensor:
    """The share of rows whose text another row has."""
    ordered = digests.sort().values
    same = ordered[1:] == ordered[:-1]
    none = same.new_zeros(1)
    return (torch.cat([same, none]) | torch.cat([none, same])).float().mean()
