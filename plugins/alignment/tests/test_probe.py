"""The probe of towers before training: scikit-learn's ridge regression, its penalty chosen by held-out items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from caption_pairs import brute_force, encode, make_texts, show
from sklearn.linear_model import Ridge
from test_contracts_in_runs import HEAD, RUN, data, recipe
from toolbox_alignment.probe import AlignmentProbe, divide_items
from toolbox_alignment.ridge import RidgeSums

import toolbox
from toolbox.base import l2_normalize
from toolbox.cli import test as test_command


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_data(items: int, seed: int, width: int = 12, noise: float = 0.3):
    """Images whose texts are a noisy linear map of them, in another width."""
    texts = make_texts(items, seed=seed, shared=40)
    images, of_text = encode(texts, dim=8, seed=seed, noise=noise)
    mix = torch.randn(8, width, generator=torch.Generator().manual_seed(3))
    return texts, images, {name: l2_normalize(values @ mix) for name, values in of_text.items()}


def mean_texts(texts, of_text) -> torch.Tensor:
    return torch.stack([torch.stack([of_text[text] for text in own]).mean(dim=0) for own in texts])


def test_it_is_the_ridge_of_scikit_learn_and_its_recall_that_of_brute_force():
    train, test = make_data(300, seed=1), make_data(80, seed=2)
    probe = AlignmentProbe(alphas=[0.5])
    show(probe.fit, *train)
    show(probe.update, *test)
    numbers = probe.compute()
    ridge = Ridge(alpha=0.5).fit(train[1].double().numpy(), mean_texts(train[0], train[2]).double().numpy())
    mapped = l2_normalize(torch.from_numpy(ridge.predict(test[1].double().numpy())))
    torch.testing.assert_close(probe._pairs.images, mapped.float(), rtol=0, atol=1e-5)
    expected = brute_force(test[0], mapped.float(), test[2])
    assert {name: numbers[f"probe/{name}"] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert numbers["probe/alpha"] == 0.5
    assert 0.1 < numbers["probe/i2t_recall@1"] < 1


def test_alpha_has_the_smallest_error_on_held_out_items():
    texts, images, of_text = make_data(300, seed=1, noise=1.0)
    images = l2_normalize(images + 1.0 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)))
    alphas = [0.001, 3.0, 1000.0]
    probe = AlignmentProbe(alphas=alphas)
    show(probe.fit, texts, images, of_text)
    show(probe.update, texts, images, of_text)
    chosen = probe.compute()["probe/alpha"]
    held_out = np.isin(np.arange(300), divide_items(range(300))["val"])
    assert 15 < held_out.sum() < 50
    assert divide_items(range(100, 200))["val"].tolist() == (held_out[100:200].nonzero()[0]).tolist()
    x, y = images.double().numpy(), mean_texts(texts, of_text).double().numpy()
    errors = {
        alpha: np.square(Ridge(alpha=alpha).fit(x[~held_out], y[~held_out]).predict(x[held_out]) - y[held_out]).sum()
        for alpha in alphas
    }
    assert chosen == min(errors, key=errors.__getitem__)
    assert chosen not in (alphas[0], alphas[-1])
    assert probe.settings == ("probe/alpha",)


def test_sums_do_not_depend_on_how_rows_come():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 5, generator=generator), torch.randn(200, 3, generator=generator)
    whole, parts, half = RidgeSums(), RidgeSums(), RidgeSums()
    whole.add(x, y)
    for rows in torch.arange(100).split(7):
        parts.add(x[rows], y[rows])
    half.add(x[100:], y[100:])
    for found, expected in zip((parts + half).solve(0.1), whole.solve(0.1), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    weight, bias = whole.solve(0.1)
    residual = (y.double() - x.double() @ weight - bias).square().sum(dim=1).mean()
    assert whole.compute_error(weight, bias) == pytest.approx(float(residual), rel=1e-9)
    with pytest.raises(ValueError, match="no rows to learn from"):
        RidgeSums().solve(1.0)


@pytest.mark.parametrize("alphas", [[], 1.0, [0.0], [-1.0, 1.0]])
def test_alphas_that_make_no_sense_are_refused(alphas):
    with pytest.raises(ValueError, match="alphas must be a list of numbers above 0"):
        AlignmentProbe(alphas=alphas)


def test_embeddings_that_are_not_finite_are_refused():
    texts, images, of_text = make_data(40, seed=1)
    probe = AlignmentProbe()
    images[3, 0] = torch.nan
    show(probe.fit, texts, images, of_text)
    show(probe.update, texts, *make_data(40, seed=1)[1:])
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        probe.compute()


ALIGNMENT = RUN | dict(
    model=dict(
        type="alignment.DualEncoder",
        vision=dict(image=dict(backbone=dict(type="contract.Patches"), pool="mean", head=HEAD)),
        text=dict(text=dict(backbone=dict(type="contract.Letters", weights="letters"), pool="last", head=HEAD)),
        loss=dict(type="losses.CLIP"),
    ),
    **data("contract.Captions"),
    test_dataloader=dict(dataset=dict(type="contract.Captions", count=12), batch_size=4, num_workers=0),
    val_evaluator=dict(type="alignment.Recall", ks=[1, 2]),
    test_evaluator=[dict(type="alignment.Probe", ks=[1, 2]), dict(type="alignment.Recall", ks=[1, 2])],
    train_cfg=dict(max_steps=6, val_interval=6),
)


def test_a_run_is_compared_with_what_a_linear_map_reaches_before_it():
    run = toolbox.train(recipe(ALIGNMENT, evaluate_before=True), out="run")
    assert {"probe/i2t_recall@1", "probe/t2i_recall@2", "probe/alpha"} <= run["before"].keys()
    assert {"i2t_recall@1", "probe/i2t_recall@1"} <= run["after"].keys()


def test_a_recipe_alone_is_probed_without_training(capsys):
    Path("recipe.py").write_text("\n".join(f"{key} = {value!r}" for key, value in recipe(ALIGNMENT).items()))
    assert test_command.main(["recipe.py"]) == 0
    out, told = capsys.readouterr()
    assert "probe" in out
    assert "i2t_recall@1" in out
    assert "are 16 wide here, and those of texts 12" in out + told
