import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eru.training import Limits


@given(max_steps=st.none() | st.integers(1, 9), step=st.integers(0, 9), says=st.none() | st.booleans())
def test_a_call_ends_at_its_steps_or_when_it_is_told_to(max_steps, step, says):
    limits = Limits(max_steps=max_steps, stop=None if says is None else lambda: says)
    assert limits.reached(step) == (says is True or (max_steps is not None and step >= max_steps))


@given(minutes=st.floats(1e-3, 1e6), start=st.floats(0, 1e6))
def test_a_call_ends_when_its_minutes_are_over(minutes, start):
    now = start
    limits = Limits(minutes=minutes, clock=lambda: now)
    assert not limits.reached(0)
    now = start + 59 * minutes
    assert not limits.reached(0)
    now = start + 61 * minutes
    assert limits.reached(0)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"max_steps": 0}, "max_steps=0: must be at least 1"),
        *(({"minutes": value}, f"minutes={value}: must be finite") for value in (0, -2.5, math.inf, math.nan)),
    ],
)
def test_bad_limits_are_named(limit, message):
    with pytest.raises(ValueError, match=message):
        Limits(**limit)
