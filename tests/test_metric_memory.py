"""What metrics need: memory that `memory_mb` bounds, and time that does not grow with items times groups."""

from __future__ import annotations

import weakref

import pytest
import torch
from test_probe import clouds, shown
from timing import is_quick
from toolbox_classification.classifiers import NearestNeighbours
from toolbox_classification.knn import classify_by_vote
from toolbox_classification.logistic import LogisticRegression
from toolbox_retrieval.report_items import make_group_table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from toolbox.utils.neighbours import find_nearest

MB = 2**20


class Peak(TorchDispatchMode):
    """The most bytes of tensors, made within, that lived at one time; storages count once, however many views."""

    def __enter__(self):
        self.alive, self.most = {}, 0
        return super().__enter__()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        given = [x for x in tree_flatten((arguments, keywords))[0] if isinstance(x, torch.Tensor)]
        outside = {x.untyped_storage().data_ptr() for x in given} - {key for key, _ in self._living()}
        found = function(*arguments, **(keywords or {}))
        for tensor in tree_flatten(found)[0]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in outside:
                self.alive[id(tensor)] = weakref.ref(tensor)
        self.most = max(self.most, sum(size for _, size in self._living()))
        return found

    def _living(self):
        self.alive = {key: ref for key, ref in self.alive.items() if ref() is not None}
        storages = [ref().untyped_storage() for ref in self.alive.values()]
        return {(storage.data_ptr(), storage.nbytes()) for storage in storages}


def rows(count, dim=64, seed=0):
    return torch.nn.functional.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("memory_mb", [2, 8])
@pytest.mark.parametrize(("count", "asked", "classes"), [(30_000, 100, 10), (2_000, 1_000, 10), (2_000, 300, 1_900)])
def test_memory_mb_is_a_cap_of_knn(memory_mb, count, asked, classes):
    gallery, queries = rows(count), rows(asked, seed=1)
    labels, own = torch.arange(count) % classes, torch.full((asked,), -1)
    with Peak() as peak:
        found = classify_by_vote(queries, own, gallery, labels, [10, 200], 0.07, memory_mb=memory_mb)
    # the answers, and the numbers of classes, are beyond it
    told = (2 * 8 * asked + 3 * 8 * count) / MB
    assert peak.most / MB < memory_mb + told
    assert peak.most / MB > 0.25  # it is measured
    with Peak() as large:
        assert torch.equal(classify_by_vote(queries, own, gallery, labels, [10, 200], 0.07, memory_mb=512), found)
    if count == 30_000:
        assert large.most > 2 * peak.most
    with Peak() as peak:
        NearestNeighbours(gallery, labels, 200, 0.07, memory_mb=memory_mb)(queries)
    assert peak.most / MB < memory_mb + told + 4 * 3 * asked * (64 + classes) / MB


def test_the_measure_finds_what_is_not_bounded():
    with Peak() as peak:
        rows(1000) @ rows(1000, seed=1).T
    assert 4.0 < peak.most / MB < 6.0


def test_neighbours_of_parts_are_those_of_the_whole():
    gallery, queries = rows(1500, 8), rows(70, 8, seed=1)
    gallery[500:700] = gallery[:200]  # copies in other parts: of equals the first
    own = torch.full((70,), -1)
    own[:20] = torch.arange(20) * 3
    queries[:20] = gallery[own[:20]]
    whole = find_nearest(queries, gallery, own, 40, memory_mb=512)
    parts = find_nearest(queries, gallery, own, 40, memory_mb=0.05)
    assert torch.equal(whole[1], parts[1])
    assert torch.allclose(whole[0], parts[0], atol=1e-6)
    assert not (parts[1][:20] == own[:20, None]).any()


def test_a_fit_in_parts_is_that_of_the_whole():
    train, test = clouds(400, dim=600, noise=3.0), clouds(200, dim=600, noise=3.0, seed=3)
    small, large = LogisticRegression([3.0], memory_mb=1), LogisticRegression([3.0])
    assert shown(small, train, test) == shown(large, train, test)
    x, y = clouds(3000, dim=80, noise=3.0)  # two MB in float64
    judged = x[:500], y[:500]
    parts, whole = LogisticRegression([3.0], memory_mb=1), LogisticRegression([3.0])
    assert shown(parts, (x, y), judged)["logistic"] == shown(whole, (x, y), judged)["logistic"]


def test_a_table_of_many_groups_takes_the_time_of_its_items():
    count = 80_000
    rank = torch.randint(0, 4, (count,), generator=torch.Generator().manual_seed(0))
    ranking = {"rank": rank, "map@r": torch.rand(count), "r_precision": torch.rand(count)}
    groups = [f"group {i // 4}" for i in range(count)]  # as many groups as a fourth of the items
    assert "of" in make_group_table(ranking, groups, [1, 10], "skip").note
    # a fifth of a second; groups times items would take several
    assert is_quick(lambda: make_group_table(ranking, groups, [1, 10], "skip"), 1.5)
