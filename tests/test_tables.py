"""Tables of cases: all are run, and those that fail are named."""

from __future__ import annotations

import pytest
from tables import for_each


def test_each_wrong_case_is_named(tmp_path):
    seen = []

    @for_each("right", [True, False])
    @for_each(("first", "second"), [(1, 1), (1, 2), (3, 3)])
    def check(tmp_path, first, second, right):
        seen.append((tmp_path, first, second, right))
        assert (first == second) is right

    with pytest.raises(AssertionError, match="2 of 2 cases") as caught:
        check(tmp_path=tmp_path)
    assert "1 of 3 cases are wrong:\n(1, 2)" in str(caught.value)
    assert "2 of 3 cases are wrong:\n(1, 1)" in str(caught.value)
    assert len(seen) == 6 and {each[0] for each in seen} == {tmp_path}
