"""kill -9 of the label page's server in the middle of submits: nothing is lost, nothing is there twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from label_kills import kill_and_look


@pytest.mark.slow
def test_ten_kills_in_the_middle_of_submits_lose_and_double_nothing(tmp_path: Path) -> None:
    found = kill_and_look(tmp_path, 10)
    assert (found.lost, found.doubled, found.strange) == ([], [], [])
    assert found.in_submits >= 8, "the kills hit no submit"
    assert found.acknowledged > 100 and found.num_retries > 10
