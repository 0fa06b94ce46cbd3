"""The fast tier of the tests stays fast: what takes long without a mark fails."""

import conftest
import pytest
from tiers import fast_in


class Item:
    def __init__(self, *marks):
        self.marks = marks

    def get_closest_marker(self, name):
        return name if name in self.marks else None


def after(seconds, item):
    """Return what the bound makes of a test that takes so many seconds."""
    clock = iter([5.0, 5.0 + seconds])
    with pytest.MonkeyPatch.context() as patch:  # undone at once: this very test is bounded too
        patch.setattr(conftest, "seconds_of_a_core", lambda: next(clock))
        patch.setattr(conftest.torch, "get_num_threads", lambda: 1)
        running = conftest.bounded(item)
        next(running)
        with pytest.raises(StopIteration) as ended:
            running.send("result")
    return ended.value.value


def test_a_long_test_without_the_mark_fails():
    with pytest.raises(pytest.fail.Exception, match=r"took 32 s of a core, expected 30 at most: mark it with"):
        after(32.0, Item())


@pytest.mark.parametrize(("marks", "seconds"), [((), 29.0), (("slow",), 1000.0)])
def test_a_short_one_and_one_that_is_marked_do_not(marks, seconds):
    assert after(seconds, Item(*marks)) == "result"


def test_time_is_what_is_computed_here():
    before = conftest.seconds_of_a_core()
    sum(number * number for number in range(2_000_000))
    assert conftest.seconds_of_a_core() > before


def test_few_of_many_cases_are_fast():
    cases = fast_in({2, 3}, range(5))
    assert cases[2:4] == [2, 3]
    assert [[mark.name for mark in case.marks] for case in (cases[0], cases[1], cases[4])] == [["slow"]] * 3
    assert [case.values for case in (cases[0], cases[1], cases[4])] == [(0,), (1,), (4,)]
