"""Tables of cases: all are run, and those that fail are named."""

from __future__ import annotations

import itertools

import pytest
from tables import for_each, pairs


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


def test_of_a_cross_every_pair_of_values_occurs():
    mark = pairs(a=range(4), b__c=[(0, "x"), (1, "y"), (2, "z")], d=[True, False])
    names, cases = mark.args
    assert names == ["a", "b", "c", "d"] and 12 <= len(cases) < 24
    for i, j in itertools.combinations((0, 1, 3), 2):  # b, and c with it
        columns = [{case[k] for case in cases} for k in (i, j)]
        assert {(case[i], case[j]) for case in cases} == set(itertools.product(*columns))
    assert {(case[1], case[2]) for case in cases} == {(0, "x"), (1, "y"), (2, "z")}
