"""Mixup and CutMix: shares, partners, and the same batches for any number of workers and processes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from test_exactness import assert_same
from toolbox_retrieval.pk import PK

import toolbox
from toolbox import api
from toolbox.base import Mix as MixBase
from toolbox.builtins.mix import MixupCutMix
from toolbox.builtins.samplers import Shuffled
from toolbox.engine.data.batch_builder import BatchBuilder, input_specs
from toolbox.engine.data.batch_plan import TrainBatches, share
from toolbox.engine.data.loader import batches
from toolbox.engine.data.mixing import PAIR, pairs_of_one_class
from toolbox.errors import ToolboxError
from toolbox.registry import build

MODEL = (
    "model=dict(type='classification.Classifier',backbone=dict(type='toy.Patches',dropout=0.0),pool='mean',"
    "loss=dict(type='losses.CrossEntropy'))"
)


def images(height=20, width=30):
    return torch.zeros(3, height, width), torch.ones(3, height, width)


# --- one pair ----------------------------------------------------------------------------------------------------
def test_mixup_blends_by_its_share():
    image, partner = images()
    shares = []
    for seed in range(2000):
        random.seed(seed)
        mixed, kept = MixupCutMix(mixup=0.4, cutmix=0)(image, partner)
        torch.testing.assert_close(mixed, torch.full_like(mixed, 1 - kept))
        shares.append(kept)
    shares = torch.tensor(shares)
    # Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1))
    assert abs(shares.mean() - 0.5) < 0.02
    assert abs(shares.var() - 1 / (4 * 1.8)) < 0.01


def test_cutmix_pastes_a_box_and_counts_what_is_left():
    image, partner = images()
    sizes = set()
    for seed in range(500):
        random.seed(seed)
        mixed, kept = MixupCutMix(mixup=0, cutmix=1.0)(image, partner)
        assert set(mixed.unique().tolist()) <= {0.0, 1.0}
        assert kept == pytest.approx(1 - mixed.mean().item(), abs=1e-6)
        rows, columns = mixed[0].any(1).nonzero(), mixed[0].any(0).nonzero()
        if len(rows):  # one box without a hole
            box = mixed[0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert box.all()
            sizes.add((len(rows), len(columns)))
    assert len(sizes) > 100
    assert not image.any()  # what it was given stays as it is


def test_probability_and_switch_choose():
    image, partner = images()

    def kinds(**arguments):
        found = []
        for seed in range(400):
            random.seed(seed)
            mixed, kept = MixupCutMix(**arguments)(image, partner)
            cut = set(mixed.unique().tolist()) <= {0.0, 1.0}
            found.append("plain" if kept == 1 and mixed is image else "cut" if cut else "blend")
        return [found.count(kind) / 400 for kind in ("plain", "cut", "blend")]

    assert kinds(probability=0.0)[0] == 1
    assert kinds(switch=0.0)[2] == kinds(switch=1.0)[1] == 1
    plain, cut, blend = kinds(probability=0.6, switch=0.25)
    assert abs(plain - 0.4) < 0.07
    assert abs(cut - 0.15) < 0.05
    assert abs(blend - 0.45) < 0.07


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mixup": -0.1}, "mixup=-0.1 must be"),
        ({"cutmix": float("inf")}, "cutmix=inf must be"),
        ({"mixup": float("nan")}, "mixup=nan must be"),
        ({"probability": 1.1}, "probability=1.1 is no probability"),
        ({"switch": -1}, "switch=-1 is no probability"),
        ({"mixup": 0, "cutmix": 0}, "leave nothing to mix"),
        ({"cutmix": 0, "switch": 0.3}, "one of them is off"),
    ],
)
def test_values_outside_their_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        MixupCutMix(**wrong)


# --- in the loader -----------------------------------------------------------------------------------------------
class Tell(MixBase):
    """Adds nothing, and draws a share."""

    def __call__(self, image, partner):
        return image, random.random()


class Wrong(MixBase):
    def __init__(self, kept=0.5, cut=0):
        self.kept, self.cut = kept, cut

    def __call__(self, image, partner):
        return image[:, self.cut :], self.kept


def fetch(toy, mix, **more):
    config = toy([MODEL])
    dataset = build(dict(type="toy.Noise", **more.pop("data", {})))
    return BatchBuilder(dataset, input_specs(toolbox.build(config)), mix=mix, seed=7, **more)


DRAWS = [(40 + place, index) for place, index in enumerate([3, 9, 20, 1, 5, 33, 60])]


def test_partners_share_their_choice_and_an_odd_item_stays(toy):
    plain, mixed = fetch(toy, None)[DRAWS], fetch(toy, MixupCutMix(cutmix=0))[DRAWS]
    partner, kept = mixed.mixed
    assert partner.tolist() == [1, 0, 3, 2, 5, 4, 6]
    assert torch.equal(kept[0:6:2], kept[1:6:2])
    assert len(set(kept[:6:2].tolist())) == 3
    assert kept[6] == 1
    before, after = plain.inputs["image"], mixed.inputs["image"]
    weight = kept[:, None, None, None]
    torch.testing.assert_close(after, weight * before + (1 - weight) * before[partner])
    assert torch.equal(after[6], before[6])
    assert torch.equal(plain.labels, mixed.labels)
    assert plain.mixed is None


def test_a_pair_depends_on_its_own_draws_alone(toy):
    whole, part = fetch(toy, MixupCutMix())[DRAWS], fetch(toy, MixupCutMix())[DRAWS[2:4]]
    assert torch.equal(whole.inputs["image"][2:4], part.inputs["image"])
    assert torch.equal(whole.mixed[1][2:4], part.mixed[1])
    other = BatchBuilder(fetch(toy, None).dataset, fetch(toy, None).inputs, mix=MixupCutMix(), seed=8)[DRAWS]
    assert not torch.equal(whole.mixed[1], other.mixed[1])
    source = fetch(toy, MixupCutMix())
    state = torch.get_rng_state(), random.getstate()
    source[DRAWS]
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == random.getstate()  # the process's own generators are untouched


def test_an_item_whose_partner_cannot_be_read_stays_as_it_is(toy):
    source = fetch(toy, MixupCutMix(), data=dict(bad=[20]), skip_bad=True)
    found, whole, plain = source[DRAWS], fetch(toy, MixupCutMix())[DRAWS], fetch(toy, None)[DRAWS]
    assert [index for index, _ in found.bad] == [20]
    partner, kept = found.mixed
    assert partner.tolist() == [1, 0, 2, 4, 3, 5]
    assert kept[2] == 1
    rows = [0, 1, 3, 4, 5, 6]
    expected = whole.inputs["image"][rows]
    expected[2] = plain.inputs["image"][3]
    assert torch.equal(found.inputs["image"], expected)  # the other pairs are as ever


def test_bytes_stay_bytes(toy):
    """Where preprocessing collates bytes, they are mixed as numbers and rounded."""
    toy()
    arch = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=8)
    model = build(
        dict(type="classification.Classifier", backbone=dict(type="dinov3.ViT", name=None, size=16, arch=arch))
    )
    noise = build(dict(type="toy.Noise"))
    plain, mixed = (BatchBuilder(noise, input_specs(model), mix=mix)[DRAWS] for mix in (None, MixupCutMix(cutmix=0)))
    before, after = plain.inputs["image"], mixed.inputs["image"]
    assert before.dtype == after.dtype == torch.uint8
    partner, kept = mixed.mixed
    weight = kept[:, None, None, None]
    exact = weight * before.float() + (1 - weight) * before[partner].float()
    assert (after.float() - exact).abs().max() <= 0.5001


@pytest.mark.parametrize(("mix", "said"), [(Wrong(kept=1.5), "the share 1.5"), (Wrong(cut=1), r"\(3, 15, 16\)")])
def test_a_mix_that_breaks_its_contract_is_told(toy, mix, said):
    with pytest.raises(ToolboxError, match=said):
        list(batches(fetch(toy, mix), FixedDraws(), workers=0))


class FixedDraws(TrainBatches):
    def __init__(self):
        self.start, self.stop = 0, 1

    def __iter__(self):
        yield DRAWS


@pytest.mark.parametrize("count", [4, 6, 7, 12, 13])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_pair_is_parted_between_processes(count, size):
    draws = [(place, place) for place in range(count)]
    if -(-count // PAIR) < size:
        with pytest.raises(ToolboxError, match="2 stay together, cannot be shared by 3"):
            share(draws, 0, size, 1, PAIR)
        return
    parts = [share(draws, rank, size, 1, PAIR) for rank in range(size)]
    assert [draw for part in parts for draw in part] == draws
    assert all(len(part) % 2 == 0 for part in parts[:-1])
    assert all(parts)


def test_processes_make_the_batch_of_one(toy):
    whole = fetch(toy, MixupCutMix())[DRAWS]
    parts = [fetch(toy, MixupCutMix())[share(DRAWS, rank, 2, 1, PAIR)] for rank in range(2)]
    assert torch.equal(torch.cat([part.inputs["image"] for part in parts]), whole.inputs["image"])
    assert torch.equal(torch.cat([part.mixed[1] for part in parts]), whole.mixed[1])
    # negative control: shares that part a pair would not
    parts = [fetch(toy, MixupCutMix())[share(DRAWS, rank, 2, 1)] for rank in range(2)]
    assert not torch.equal(torch.cat([part.inputs["image"] for part in parts]), whole.inputs["image"])


# --- in recipes --------------------------------------------------------------------------------------------------
RUN = [
    MODEL,
    "train_dataloader.mix=dict(type='core.Mix')",
    "train_dataloader.dataset.per_class=8",
    "val_dataloader.dataset.per_class=8",
    "evaluate_before=False",
    "train_cfg.max_steps=6",
]


def test_the_number_of_workers_changes_nothing_and_mixing_changes_the_run(toy):
    toolbox.train(toy(RUN), out="none")
    toolbox.train(toy([*RUN, "train_dataloader.num_workers=2"]), out="two")
    assert_same(Path("none"), Path("two"))
    toolbox.train(toy([*RUN, "train_dataloader.mix=None"]), out="plain")
    with pytest.raises(AssertionError):
        assert_same(Path("none"), Path("plain"))


def problems(toy, overrides):
    return "\n".join(map(str, toolbox.check_config(toy(overrides))))


def test_sound_recipes_pass(toy):
    assert problems(toy, RUN) == ""


def test_models_and_batches_that_cannot_be_mixed_are_refused(toy):
    mix = RUN[1]
    assert "Embedder does not read the labels of mixed images" in problems(toy, [mix])
    assert "an item has 2" in problems(toy, [*RUN, "train_dataloader.augment.views=2"])
    pairs = "train_dataloader.sampler=dict(type='retrieval.Pairs',batch_size=8)"
    assert "belong together in 2 blocks" in problems(toy, [*RUN, pairs])
    assert "train_dataloader.mix" in problems(toy, [*RUN, "train_dataloader.mix.switch=2"])
    assert "no argument 'alpha'" in problems(toy, [*RUN, "train_dataloader.mix.alpha=2"])


def test_an_augment_that_does_not_say_its_views_is_found_at_the_first_batch(toy):
    class Two:
        def __call__(self, image, size):
            return [image, image]

    source = fetch(toy, Tell())
    source.augment = {"image": Two()}
    with pytest.raises(ToolboxError, match="one image an item"):
        list(batches(source, FixedDraws(), workers=0))


# --- partners of two classes -------------------------------------------------------------------------------------
class Stacked(PK):
    """A class after the other."""

    def batch(self, number):
        table = torch.tensor(super().batch(number)).view(self.per_class, self.classes)
        return table.T.flatten().tolist()


def test_partners_under_a_class_balanced_sampler_are_of_two_classes(toy):
    dataset = build({"type": "toy.Noise", "count": 48, "per_class": 8}, "dataset")
    sampler = PK(classes=3, per_class=4)
    sampler.setup(dataset, 0)
    model = build(toy([MODEL])["model"], "model")
    fetch = BatchBuilder(dataset, input_specs(model), mix=MixupCutMix())
    for number in range(len(sampler)):
        batch = fetch[sampler.draws(number)]
        partner, kept = batch.mixed
        assert (kept < 1).any()
        assert (batch.labels != batch.labels[partner]).all()


def test_a_sampler_whose_neighbours_are_of_one_class_is_refused(toy):
    dataset = build({"type": "toy.Noise", "count": 48, "per_class": 8}, "dataset")

    def judged(sampler):
        sampler.setup(dataset, 0)
        return pairs_of_one_class(sampler, dataset.labels)

    for sampler in (Stacked(classes=4, per_class=4), Stacked(classes=4, per_class=3), PK(classes=1, per_class=4)):
        ((problem,), notes) = judged(sampler)
        assert problem.where == "train_dataloader.mix"
        assert "are of one class, which changes no label" in problem.message
        assert notes == []
    assert judged(PK(classes=4, per_class=3)) == ([], [])
    found, (note,) = judged(Shuffled(batch_size=16))
    assert found == []
    assert "of the first 24 pairs of images to mix are of one class." in note
    one = "train_dataloader.sampler=dict(type='retrieval.PK',classes=1,per_class=4)"
    (problem,) = api.check_config(toy([MODEL, one, "train_dataloader.mix=dict(type='core.Mix')"]))
    assert "which changes no label" in problem.message
