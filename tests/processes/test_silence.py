"""A process that neither fails nor answers counts as dead."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from toolbox.engine.distributed import context as contexts
from toolbox.engine.distributed.context import DistributedContext, OtherProcessFailed
from toolbox.engine.distributed.rank_info import RankInfo
from toolbox.errors import ToolboxError


def member(store: dist.Store, rank: int) -> DistributedContext:
    distributed = DistributedContext(RankInfo(rank, 2, rank, 2))
    distributed._store = store
    return distributed


def test_the_main_process_claims_the_failure_of_one_that_is_silent(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(contexts.time, "monotonic", lambda: now[0])
    store, heard = dist.HashStore(), {}
    main, other = member(store, 0), member(store, 1)
    for beat in range(3):
        assert other._listen({}, beat) is None
        assert main._listen(heard, beat) is None
        now[0] += contexts._SILENCE - 1  # it is slow, and lives
    now[0] += 2
    found = main._listen(heard, 3)
    assert (found.rank, found.code) == (1, 2)
    assert other._who_failed().rank == 1
    assert "Process 1 has not been heard of" in capsys.readouterr().err


def test_whoever_failed_first_is_named(monkeypatch):
    store = dist.HashStore()
    assert member(store, 1)._who_failed() is None
    assert member(store, 1)._who_failed(claim="1:2").rank == 1
    assert member(store, 0)._who_failed(claim="0:1").rank == 1


def test_who_has_heard_of_a_failure_does_not_claim_its_own_once_the_store_is_gone(monkeypatch):
    store = dist.HashStore()
    other = member(store, 1)
    assert member(store, 0)._who_failed(claim="0:2").rank == 0
    assert other._who_failed().rank == 0  # as the watcher hears of it: the main process may end now, with the store

    def gone(*arguments):
        raise dist.DistNetworkError("Connection reset by peer")

    monkeypatch.setattr(other, "_store", type("Gone", (), {"compare_set": gone, "check": gone, "get": gone})())
    with pytest.raises(OtherProcessFailed):
        other._fail(ToolboxError("its own"))
