"""However one of several processes ends, the others end with it: none waits for one that is gone."""

from __future__ import annotations

from pathlib import Path

import group
import pytest

ENDS = Path(__file__).parent / "ends.py"


def ended(case, folder):
    """(exit code, standard output, standard error) of two processes; one that waits for the other is killed: -9."""
    return group.Group(2, ENDS, case, folder).end(90)


def test_a_hook_that_stops_one_process_stops_all_at_the_same_step(tmp_path):
    found = ended("stop", tmp_path)
    for code, said, _ in found:
        assert code == 0, found
        assert "{'before_run': 0, 'after_step': 3, 'after_log': 3, 'after_evaluate': 3, 'after_save': 3}" in said


@pytest.mark.parametrize(
    ("case", "rank", "message"),
    [
        ("judge", 1, "16 of 32 items cannot be read"),
        ("before", 1, "this machine lacks something"),
        ("after", 0, "the report cannot be written"),
    ],
)
def test_a_process_that_fails_alone_is_the_one_that_says_why(tmp_path, case, rank, message):
    found = ended(case, tmp_path)
    assert [code for code, _, _ in found] == [2, 2], found
    assert message in found[rank][2]
    assert message not in found[1 - rank][2]
    assert "Traceback" not in found[1 - rank][2]


def test_data_are_written_by_one_process_before_any_reads_them(tmp_path):
    found = ended("prepare", tmp_path)
    assert [code for code, _, _ in found] == [0, 0], found
    assert (tmp_path / "written").read_text() == "written\n"


def test_several_processes_do_not_train_the_run_that_they_would_start_from(tmp_path):
    found = ended("untrained", tmp_path)
    assert [code for code, _, _ in found] == [2, 2], found
    said = [text for _, _, text in found]
    assert sum("vision-encoder-toolbox train" in text for text in said) == 1
    assert "Traceback" not in "".join(said)
