"""Facts about an org's daily calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.salesforce.allowance import Allowance, Usage, usage_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("header", "usage"),
    [
        ("api-usage=18/15000", Usage(18, 15000)),
        ("api-usage=18/15000; per-app-api-usage=17/250(appName=x)", Usage(18, 15000)),
        ("per-app-api-usage=17/250(appName=x); api-usage=18/15000", Usage(18, 15000)),
        ("per-app-api-usage=17/250(appName=x)", None),
        ("nonsense", None),
        ("", None),
        (None, None),
    ],
)
def test_the_header_tells_what_everyone_used(header: str | None, usage: Usage | None) -> None:
    assert usage_of(header) == usage


def test_nothing_is_held_back_before_the_first_reply() -> None:
    allowance = Allowance(Clock())
    assert allowance.trouble(0.2) is None
    assert allowance.left is None


@given(st.integers(0, 200), st.integers(1, 100), st.floats(0, 1))
def test_a_call_is_held_back_exactly_when_it_would_come_out_of_the_reserve(used: int, total: int, reserve: float) -> None:
    allowance = Allowance(Clock())
    allowance.tell(Usage(used, total))
    assert (allowance.trouble(reserve) is not None) == (used >= total * (1 - reserve))


def test_past_the_reserve_one_call_a_quarter_of_an_hour_goes_out() -> None:
    clock = Clock()
    allowance = Allowance(clock)
    allowance.tell(Usage(80, 100))
    first = allowance.trouble(0.2)
    assert first is not None
    assert first.cause.code == "daily_call_reserve"
    assert first.retry_after_seconds == 900
    clock.now += 600
    waiting = allowance.trouble(0.2)
    assert waiting is not None
    assert waiting.retry_after_seconds == 300
    clock.now += 300
    assert allowance.trouble(0.2) is None
    assert allowance.trouble(0.2) is not None


def test_a_reply_that_tells_of_calls_ends_the_wait() -> None:
    allowance = Allowance(Clock())
    allowance.exhausted()
    assert allowance.trouble(0.2) is not None
    allowance.tell(Usage(10, 100))
    assert allowance.trouble(0.2) is None
    assert allowance.left == 90


def test_a_refused_call_holds_the_next_ones_back_even_if_its_header_says_otherwise() -> None:
    allowance = Allowance(Clock())
    allowance.tell(Usage(10, 100))
    allowance.exhausted()
    assert allowance.trouble(0.2) is not None


def test_someone_who_mended_it_need_not_wait() -> None:
    allowance = Allowance(Clock())
    allowance.exhausted()
    allowance.reset()
    assert allowance.trouble(0.2) is None
