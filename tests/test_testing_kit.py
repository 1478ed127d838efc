"""The conformance checks: each passes a plain implementation and catches one that breaks its contract."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from toolbox_losses.cross_entropy import CrossEntropy
from toolbox_losses.supcon import SupCon
from torch import nn

from toolbox.base import (
    Augment,
    Backbone,
    Dataset,
    ExportedBackbone,
    Features,
    Head,
    Loss,
    Metric,
    Mix,
    Optimizer,
    Pool,
    Preprocess,
    Sampler,
    Schedule,
    gather,
)
from toolbox.plugin import Component, hookimpl
from toolbox.registry import get_catalog
from toolbox.testing import (
    LabelledImages,
    check_augment,
    check_backbone,
    check_component,
    check_dataset,
    check_head,
    check_loss,
    check_metric,
    check_mix,
    check_optimizer,
    check_plugin,
    check_pool,
    check_sampler,
    check_schedule,
    isolated_catalog,
)


def variant(base: type, **changes):
    """A subclass of `base` with some methods or attributes replaced."""
    return type(f"Bad{base.__name__}", (base,), changes)


def caught(check, make, expected: str) -> None:
    with pytest.raises(AssertionError, match=expected):
        check(make)


class ToTensor(Preprocess):
    size = (16, 16)

    def __call__(self, value):
        return torch.from_numpy(np.asarray(value.resize((16, 16)), dtype=np.float32)).permute(2, 0, 1) / 255


class Tower(Backbone):
    dim = 12
    abilities = frozenset({"layers", "mask", "checkpointing"})
    checkpointing = False

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 8, 8)
        self.blocks = nn.ModuleList(nn.Linear(12, 12) for _ in range(2))
        self.norm = nn.LayerNorm(12)
        self.cls, self.mask_token = nn.Parameter(torch.randn(12)), nn.Parameter(torch.randn(12))

    def forward(self, inputs, *, layers=1, mask=None):
        x = self.embed(inputs)
        grid = tuple(x.shape[2:])
        x = x.flatten(2).transpose(1, 2)
        if mask is not None:
            x = torch.where(mask[..., None], self.mask_token, x)
        x = torch.cat([self.cls.expand(len(x), 1, -1), x], dim=1)
        outputs = []
        for block in self.blocks:
            if self.checkpointing and self.training:
                x = x + torch.utils.checkpoint.checkpoint(
                    lambda y, b=block: b(y.mean(1, True) + y), x, use_reentrant=False
                )
            else:
                x = x + block(x.mean(dim=1, keepdim=True) + x)
            outputs.append(self.norm(x))
        return Features(outputs[-1], prefix=1, grid=grid, blocks=tuple(outputs[-layers:]) if layers > 1 else None)

    def enable_checkpointing(self):
        self.checkpointing = True

    def preprocess(self):
        return ToTensor()

    def layers(self):
        return list(self.blocks)


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


def _with(**parts):
    """An __init__ that adds parts to the tower."""

    def __init__(self):
        Tower.__init__(self)
        for name, value in parts.items():
            setattr(self, name, value())

    return __init__


def _altered(change):
    """A forward that changes the features of the tower."""

    def forward(self, inputs, *, layers=1, mask=None):
        return change(self, Tower.forward(self, inputs, layers=layers, mask=mask))

    return forward


class Heavy(ToTensor):
    def __init__(self):
        self.model = nn.Linear(1, 1)


class Unpicklable(ToTensor):
    def __init__(self):
        self.convert = lambda x: x


def _set(**values):
    def change(self, features):
        for name, value in values.items():
            setattr(features, name, value)
        return features

    return change


def _by_batch(self, features):
    features.tokens = features.tokens - features.tokens.mean(dim=0, keepdim=True)
    return features


def _random(self, features):
    features.tokens = features.tokens + torch.rand_like(features.tokens)
    return features


def _forgets(self, features):
    if not hasattr(self, "offset"):
        self.offset = torch.randn(())
    features.tokens = features.tokens + self.offset
    return features


def _pooled(self, features):
    features.tokens = features.tokens[:, 0]
    return features


TOWERS = {
    "modality": (dict(modality="sound"), "'image' or 'text'"),
    "dim": (dict(dim=13), "dim=13"),
    "abilities": (dict(abilities=frozenset({"flying"})), "unknown words"),
    "heavy preprocess": (dict(preprocess=lambda self: Heavy()), "holds an nn.Module"),
    "closure in preprocess": (dict(preprocess=lambda self: Unpicklable()), "must be picklable"),
    "pooled": (dict(forward=_altered(_pooled)), r"must be \(B, N, dim"),
    "prefix": (dict(forward=_altered(_set(prefix=2))), "prefix . h . w"),
    "no grid": (dict(forward=_altered(_set(grid=None))), "grid must be"),
    "valid": (dict(forward=_altered(_set(valid=torch.ones(3)))), "valid must be"),
    "chance": (dict(forward=_altered(_random)), "same input must give the same tokens"),
    "neighbors": (dict(forward=_altered(_by_batch)), "must not depend on its batch"),
    "outside layer": (dict(layers=lambda self: [nn.Linear(1, 1)]), "modules of the backbone itself"),
    "no layers": (dict(layers=lambda self: []), "at least one module"),
    "no blocks": (dict(forward=_altered(_set(blocks=None))), "two blocks"),
    "ignored mask": (
        dict(forward=lambda self, inputs, *, layers=1, mask=None: Tower.forward(self, inputs, layers=layers)),
        "another mask",
    ),
    "silent checkpointing": (dict(abilities=frozenset({"layers", "mask"})), "must declare 'checkpointing'"),
    "unused": (dict(__init__=_with(extra=lambda: nn.Linear(2, 2))), "none reaches extra.weight"),
    "hidden": (dict(__init__=_with(hidden=lambda: torch.ones(2, requires_grad=True))), "'hidden' must be an nn.Para"),
    "not saved": (
        dict(forward=_altered(_forgets), abilities=frozenset({"mask", "checkpointing"})),
        "a checkpoint must restore it",
    ),
    "thaws": (dict(train=nn.Module.train), "must stay in eval mode"),
}


def test_backbone_passes():
    check_backbone(Tower)


@pytest.mark.parametrize("case", TOWERS)
def test_backbone_catches(case):
    changes, expected = TOWERS[case]
    caught(check_backbone, variant(Tower, **changes), expected)


def exports_other_tokens(self, folder, *, as_base=False):
    return ExportedBackbone("torch", ["import torch"], [], [], ["tokens = torch.zeros(len(pixels), 5, 12)"], prefix=1)


def test_backbone_catches_an_export_that_gives_other_tokens():
    caught(check_backbone, variant(Tower, export=exports_other_tokens), "must give the tokens of forward")


class Words(Preprocess):
    def __call__(self, value):
        return torch.tensor([hash_of(word) for word in value.split()])

    def collate(self, items):
        ids = nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=-1)
        return {"ids": ids.clamp(min=0), "valid": ids >= 0}


def hash_of(word: str) -> int:
    return sum(map(ord, word)) % 50


class Text(Tower):
    modality, abilities = "text", frozenset()

    def __init__(self):
        Backbone.__init__(self)
        self.table = nn.Embedding(50, 12)

    def forward(self, inputs, *, layers=1, mask=None):
        return Features(self.table(inputs["ids"]), valid=inputs["valid"])

    def preprocess(self):
        return Words()

    def layers(self):
        return [self.table]

    enable_checkpointing = Backbone.enable_checkpointing


def test_a_text_backbone_passes():
    check_backbone(Text)


class Proxy(Loss):
    """Cross-entropy to learned proxies."""

    def connect(self, dim, classes=None):
        self.weight = nn.Parameter(torch.randn(classes, dim))

    def compute(self, embeddings, labels, ref_embeddings, ref_labels):
        if ref_embeddings is not None:
            raise ValueError("one view only")
        return nn.functional.cross_entropy(embeddings @ self.weight.to(embeddings.dtype).T, labels)


class Pairs(Loss):
    """InfoNCE between two views."""

    needs_labels = False

    def compute(self, embeddings, labels, ref_embeddings, ref_labels):
        if ref_embeddings is None or labels is not None:
            raise ValueError("two views without labels, please")
        return nn.functional.cross_entropy(embeddings @ ref_embeddings.T, torch.arange(len(embeddings)))


def _loss(compute, **more):
    return variant(Proxy, compute=lambda self, e, labels, r, rl: compute(self, e, labels), **more)


def _proxy(self, e, labels):
    return nn.functional.cross_entropy(e @ self.weight.to(e.dtype).T, labels)


def _only_pairs(self, e, labels):
    same = (labels[:, None] == labels).fill_diagonal_(False)
    return _proxy(self, e, labels) - (e @ e.T)[same].mean()


def _late(self, e, labels):
    if not hasattr(self, "late"):
        self.late = nn.Parameter(torch.ones(()))
    return _proxy(self, e, labels) * self.late


LOSSES = {
    "vector": (_loss(lambda self, e, labels: _proxy(self, e, labels)[None]), "scalar"),
    "detached": (_loss(lambda self, e, labels: _proxy(self, e, labels).detach()), "carry a gradient"),
    "not finite": (_loss(lambda self, e, labels: _proxy(self, e, labels) / 0), "finite"),
    "constant": (_loss(lambda self, e, labels: self.weight.sum() + 0 * e.sum()), "not all zero"),
    "lowers float64": (_loss(lambda self, e, labels: _proxy(self, e.float(), labels)), "must stay float64"),
    "order": (
        _loss(lambda self, e, labels: _proxy(self, e, labels) * e[0].norm()),
        "must not depend on the order of the rows",
    ),
    "lone label": (_loss(_only_pairs), "finite with no two equal labels"),
    "hidden": (
        variant(
            Proxy,
            connect=lambda self, dim, classes=None: (
                Proxy.connect(self, dim, classes),
                setattr(self, "scale", torch.ones((), requires_grad=True)),
            ),
        ),
        "'scale' must be an nn.Parameter",
    ),
    "late": (_loss(_late), "not forward"),
    "unused": (
        variant(
            Proxy,
            connect=lambda self, dim, classes=None: (
                Proxy.connect(self, dim, classes),
                setattr(self, "spare", nn.Parameter(torch.ones(1))),
            ),
        ),
        "none reaches spare",
    ),
    "refuses all": (_loss(lambda self, e, labels: (_ for _ in ()).throw(ValueError("no"))), "refuses both"),
}


class Tokens(Loss):
    """Cosines of the sums of tokens."""

    needs_labels = False
    reads_tokens = True

    def compute(self, embeddings, labels, ref_embeddings, ref_labels):
        if ref_embeddings is None or labels is not None:
            raise ValueError("two views without labels, please")
        return Pairs.compute(self, self.pooled(embeddings), None, self.pooled(ref_embeddings), None)

    def pooled(self, tokens):
        return nn.functional.normalize(tokens.sum(1), dim=-1)


class Taught(Loss):
    """The squared distance to the teacher's embeddings."""

    needs_labels = False
    needs_teacher = True

    def compute(self, embeddings, labels, ref_embeddings, ref_labels, teacher, ref_teacher):
        if ref_embeddings is not None:
            raise ValueError("one view only")
        return (embeddings - teacher.detach()).square().mean()


class Counting(Proxy):
    """Remembers how many rows it has seen, and lets them count."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def compute(self, embeddings, labels, ref_embeddings, ref_labels):
        self.seen += len(embeddings)
        return Proxy.compute(self, embeddings, labels, ref_embeddings, ref_labels) * self.seen


LOSSES |= {
    "padding": (variant(Tokens, pooled=lambda self, tokens: tokens.mean(1)), "zeros are padding"),
    "teacher trained": (
        variant(Taught, compute=lambda self, e, *_, teacher, ref_teacher: (e - teacher).square().mean()),
        "must not send a gradient to the teacher",
    ),
    "teacher ignored": (
        variant(Taught, compute=lambda self, e, *_, teacher, ref_teacher: e.square().mean()),
        "must depend on the teacher",
    ),
}


@pytest.mark.parametrize("loss", [Proxy, Pairs, Tokens, Taught, Counting])
def test_loss_passes(loss):
    check_loss(loss)


@pytest.mark.parametrize("case", LOSSES)
def test_loss_catches(case):
    caught(check_loss, *LOSSES[case])


def test_loss_catches_low_precision():
    """`forward` is final in the base class; one that is replaced by force loses its promotion."""
    bad = variant(
        Proxy, forward=lambda self, embeddings, labels=None, **_: Proxy.compute(self, embeddings, labels, None, None)
    )
    caught(check_loss, bad, "bfloat16|float32|without autocast")


class Gem(Pool):
    def __init__(self):
        super().__init__()
        self.power = nn.Parameter(torch.tensor(2.0))

    def dim(self, width):
        return width

    def forward(self, features):
        tokens = features.tokens[:, features.prefix :].abs().clamp(min=1e-3) ** self.power
        valid = torch.ones(features.tokens.shape[:2], dtype=torch.bool) if features.valid is None else features.valid
        weight = valid[:, features.prefix :, None].to(tokens.dtype)
        return (tokens * weight).sum(dim=1) / weight.sum(dim=1)


def test_pool():
    check_pool(Gem)
    mean = dict(forward=lambda self, f: f.tokens.mean(dim=1) * self.power)
    caught(check_pool, variant(Gem, **mean), "must ignore tokens")
    caught(check_pool, variant(Gem, dim=lambda self, width: 2 * width), r"dim\(D\)")
    batch = dict(forward=lambda self, f: Gem.forward(self, f) - Gem.forward(self, f).mean(dim=0))
    caught(check_pool, variant(Gem, **batch), "must not depend on its batch")
    caught(check_pool, variant(Gem, forward=lambda self, f: f.tokens[:, 0].detach() * self.power), "gradient|padding")


class Linear(Head):
    def __init__(self, dim: int = 5):
        super().__init__()
        self.out_dim = dim

    def connect(self, in_dim, classes=None):
        self.in_dim = in_dim
        self.fc = nn.Linear(in_dim, self.out_dim)

    def forward(self, x):
        return self.fc(x)


def test_head():
    check_head(Linear)
    check_head(variant(Linear, forward=lambda self, x: self.fc(x.tokens.mean(dim=1))))
    caught(check_head, lambda: variant(Linear, forward=lambda self, x: self.fc(x)[:, :2])(), r"\(B, out_dim\)")
    caught(check_head, variant(Linear, forward=lambda self, x: self.fc(x.detach()) * torch.rand(())), "same output")
    caught(check_head, variant(Linear, forward=lambda self, x: self.fc(x).detach() + self.fc.bias), "fc.weight")


class Moody(LabelledImages):
    def __getitem__(self, index):
        return super().__getitem__(index) | {"image": LabelledImages()[random.randrange(9)]["image"]}


def _item(**changes):
    return dict(__getitem__=lambda self, index: LabelledImages.__getitem__(self, index) | changes)


def make_images_of_one_group():
    dataset = LabelledImages()
    dataset.groups = ["a"]
    return dataset


def test_dataset():
    check_dataset(LabelledImages)
    caught(check_dataset, Moody, "same at every call")
    gray = Image.new("L", (4, 4))
    caught(check_dataset, variant(LabelledImages, **_item(image=gray)), "in RGB")
    caught(check_dataset, variant(LabelledImages, **_item(id=1)), "stands twice")
    caught(check_dataset, variant(LabelledImages, **_item(label=0)), "must be labels")
    caught(check_dataset, variant(LabelledImages, **_item(text=3)), "'text' must be")
    caught(check_dataset, variant(LabelledImages, **_item(text=["a", " "])), "none of them empty")
    partly = {"id": 1, "label": 1, "image": gray}
    caught(check_dataset, variant(LabelledImages, read=lambda self, index, fields: partly), r"read\(0, \{'image'\}\)")
    caught(check_dataset, variant(LabelledImages, __len__=lambda self: 3), "one value per item")
    caught(check_dataset, make_images_of_one_group, "groups must have one value")
    caught(check_dataset, variant(LabelledImages, identities=lambda self: ["a"]), "identities must have one string")
    caught(check_dataset, lambda: LabelledImages([]), "at least one item")
    problem = variant(LabelledImages, check=lambda self: ["files are missing"])
    caught(check_dataset, problem, "files are missing")


class InOrder(Sampler):
    batch_size = 6

    def setup(self, dataset: Dataset, seed: int):
        self.count, self.seed = len(dataset), seed

    def __len__(self):
        return self.count // 6

    def batch(self, number):
        order = np.random.default_rng((self.seed, number // len(self))).permutation(self.count)
        start = number % len(self) * 6
        return order[start : start + 6].tolist()


def _counting(self, number):
    self.calls = getattr(self, "calls", -1) + 1
    return InOrder.batch(self, self.calls)


def test_sampler():
    check_sampler(InOrder)
    caught(check_sampler, variant(InOrder, batch=_counting), "on its number alone")
    chance = dict(batch=lambda self, number: random.sample(range(self.count), 6))
    caught(check_sampler, variant(InOrder, **chance), "on its number alone")
    arrays = dict(batch=lambda self, number: np.arange(6))
    caught(check_sampler, variant(InOrder, **arrays), "list of Python ints")
    caught(check_sampler, variant(InOrder, batch=lambda self, number: [10**6]), "index into the dataset")
    caught(check_sampler, variant(InOrder, batch=lambda self, number: [0] * 7), "1 to batch_size=6")
    caught(check_sampler, variant(InOrder, blocks=4), "blocks=4")
    caught(check_sampler, variant(InOrder, draws=lambda self, n: list(enumerate(self.batch(n)))), "its own number")

    def setup(self, dataset, seed):
        InOrder.setup(self, dataset, random.randrange(10**6))

    caught(check_sampler, variant(InOrder, setup=setup), "must start anywhere")


class Flip(Augment):
    def __call__(self, image, size):
        return ImageOps.mirror(image) if random.random() < 0.5 else image


def test_augment():
    check_augment(Flip)
    check_augment(variant(Flip, __call__=lambda self, image, size: [image, ImageOps.mirror(image)]))
    own = np.random.default_rng()
    chance = dict(__call__=lambda self, image, size: image.rotate(own.uniform(1, 90)))
    caught(check_augment, variant(Flip, **chance), "must be repeatable")
    caught(check_augment, variant(Flip, __call__=lambda self, image, size: np.asarray(image)), "PIL image|arrays|bool")
    caught(check_augment, variant(Flip, __call__=lambda self, image, size: image.convert("L")), "in RGB")
    paint = dict(__call__=lambda self, image, size: image.paste((0, 0, 0), (0, 0, 4, 4)) or image)
    caught(check_augment, variant(Flip, **paint), "leave the image")
    views = dict(__call__=lambda self, image, size: [image] * (1 + image.width % 3))
    caught(check_augment, variant(Flip, **views), "same number of views")


def test_mix():
    class Half(Mix):
        def __call__(self, image, partner):
            return (image + partner) / 2, 0.5

    check_mix(Half)
    own = np.random.default_rng()

    def wrong(result):
        return variant(Half, __call__=lambda self, image, partner: result(image, partner))

    caught(check_mix, wrong(lambda image, partner: (image * own.uniform(), 0.5)), "must be repeatable")
    caught(check_mix, wrong(lambda image, partner: (image, own.uniform())), "must be repeatable")
    caught(check_mix, wrong(lambda image, partner: (image, 1.5)), "share")
    caught(check_mix, wrong(lambda image, partner: (image[:, 1:], 0.5)), "keep the shape")
    caught(check_mix, wrong(lambda image, partner: (image.double(), 0.5)), "of the type")
    caught(check_mix, wrong(lambda image, partner: (image.mul_(0.5), 0.5)), "as they are|repeatable")


def test_a_loss_that_compares_rows_cannot_say_that_it_gathers_nothing():
    caught(check_loss, variant(SupCon, gathers=False), "each with a term of its own")
    check_loss(variant(CrossEntropy, gathers=True))
    caught(check_loss, variant(CrossEntropy, weigh=lambda self, *rows: 1 + (len(rows[0]) > 5)), "what it divides by")


def test_a_loss_that_reads_logits_is_connected_to_as_many_as_there_are_classes():
    check_loss(CrossEntropy)
    with pytest.raises(ValueError, match="16 numbers for 12 classes"):
        check_loss(variant(CrossEntropy, reads_logits=False))

    class Squares(CrossEntropy):
        def compute(self, embeddings, labels, ref_embeddings, ref_labels):
            return super().compute(embeddings.half(), labels, ref_embeddings, ref_labels)

    caught(check_loss, Squares, "float32")


class Mean(Metric):
    def reset(self):
        self.seen = []

    def update(self, outputs, batch):
        self.seen.append(outputs["embeddings"][:, 0] * (batch.labels + 1))

    def compute(self):
        return {"mean": gather(torch.cat(self.seen)).mean().item()}


def test_metric():
    check_metric(Mean)
    of_batches = dict(compute=lambda self: {"mean": torch.stack([s.mean() for s in self.seen]).mean().item()})
    caught(check_metric, variant(Mean, **of_batches), "split into batches")
    first = dict(compute=lambda self: {"first": self.seen[0][0].item()})
    caught(check_metric, variant(Mean, **first), "the order of the items")
    caught(check_metric, variant(Mean, compute=lambda self: {"mean": torch.ones(())}), "finite Python number")

    def keeps(self):
        self.seen = getattr(self, "seen", [])

    total = dict(reset=keeps, compute=lambda self: {"sum": torch.cat(self.seen).sum().item()})
    caught(check_metric, variant(Mean, **total), "seen before reset")


class Ramp(Schedule):
    def factor(self, step, steps):
        return (step + 1) / steps


def _remembers(self, step, steps):
    self.calls = getattr(self, "calls", 0) + 1
    return float(self.calls)


def test_schedule():
    check_schedule(Ramp)
    caught(check_schedule, variant(Ramp, factor=_remembers), "on step and steps alone")
    caught(check_schedule, variant(Ramp, factor=lambda self, step, steps: 1 - step), ">= 0")
    caught(check_schedule, variant(Ramp, factor=lambda self, step, steps: float("nan")), "finite")
    caught(check_schedule, variant(Ramp, key="momentum"), "'lr' or 'weight_decay'")


class Momentum(Optimizer):
    def __init__(self, lr: float = 0.05):
        self.lr = lr

    def build(self, groups, fused):
        return torch.optim.SGD(groups, lr=self.lr, momentum=0.9)


class Forgetful(torch.optim.SGD):
    def load_state_dict(self, state):
        pass


def test_optimizer():
    check_optimizer(Momentum)
    one_lr = dict(
        build=lambda self, groups, fused: torch.optim.SGD([p for g in groups for p in g["params"]], lr=self.lr)
    )
    caught(check_optimizer, variant(Momentum, **one_lr), "each with its own lr")
    forgets = dict(build=lambda self, groups, fused: Forgetful(groups, lr=self.lr, momentum=0.9))
    caught(check_optimizer, variant(Momentum, **forgets), "bit for bit")
    rises = dict(build=lambda self, groups, fused: torch.optim.SGD(groups, lr=self.lr, maximize=True))
    caught(check_optimizer, variant(Momentum, **rises), "lower a convex function")


class Documented(Ramp):
    """A ramp.

    - `low`: where it begins.
    """

    def __init__(self, low: float = 0.0):
        if low < 0:
            raise ValueError("low must not be negative")


class Bare(Ramp):
    """A ramp without annotations."""

    def __init__(self, low=0.0): ...


class Undocumented(Ramp):
    pass


def _module(monkeypatch, name: str, *components: Component, source: str = "", folder=None):
    """A plugin module with these components; with `source`, a file on sys.path."""
    if source:
        (folder / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(str(folder))
        return name
    module = type(sys)(name)
    module.toolbox_components = hookimpl(lambda: list(components))
    module.toolbox_components.__name__ = "toolbox_components"
    return module


SOURCE = """
{first}
from toolbox.plugin import Component, hookimpl
@hookimpl
def toolbox_components():
    return [Component("schedule", "S", "kit_classes:{name}", {summary!r})]
"""


@pytest.fixture
def plugin_file(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "kit_classes", sys.modules[__name__])
    names = []

    def write(name="Documented", first="", summary="a ramp"):
        module = f"kit_plugin_{len(names)}_{tmp_path.name}"
        names.append(module)
        return _module(
            monkeypatch, module, source=SOURCE.format(name=name, first=first, summary=summary), folder=tmp_path
        )

    yield write
    for name in names:
        sys.modules.pop(name, None)


def test_plugin_and_component_by_name(plugin_file):
    name = plugin_file()
    with isolated_catalog(name):
        check_plugin(name)
        check_component(f"{name}.S", low=1.0)
        with pytest.raises(Exception, match="low must not be negative"):
            check_component(f"{name}.S", low=-1.0)
        with pytest.raises(Exception, match="no argument 'hgih'"):
            check_component(f"{name}.S", hgih=-1.0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(first="import numpy"), r"nothing but toolbox.plugin, not \['numpy'\]"),
        (dict(first="1 / 0"), "must be found and usable"),
        (dict(name="Bare"), "'low' needs an annotation"),
        (dict(name="Undocumented"), "needs a docstring"),
        (dict(name="Nowhere"), "must be importable"),
        (dict(summary="two\nlines"), "one line"),
    ],
)
def test_plugin_catches(plugin_file, options, expected):
    name = plugin_file(**options)
    with isolated_catalog(name):
        caught(check_plugin, name, expected)


def test_plugin_catches_a_name_that_is_not_installed():
    caught(check_plugin, "nobody", "must be found and usable")


def test_isolation_hides_what_is_installed(monkeypatch):
    before = get_catalog()
    component = Component("schedule", "S", "kit_classes:Documented", "a ramp")
    with isolated_catalog(_module(monkeypatch, "kit_inline", component)) as inside:
        assert get_catalog() is inside
        assert [plugin.namespace for plugin in inside.plugins] == ["core", "kit_inline"]
        assert inside.get("kit_inline.S").target == "kit_classes:Documented"
    assert get_catalog() is before
    with isolated_catalog(core=False) as empty:
        assert empty.entries == []
    with pytest.raises(RuntimeError), isolated_catalog():
        raise RuntimeError
    assert get_catalog() is before
