import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from eru.training import schedule_factor

GRADUAL = ["cosine", "linear"]
DECAYING = [*GRADUAL, "drop"]
plans = st.integers(1, 2000).flatmap(
    lambda total: st.tuples(st.integers(0, total - 1), st.just(total), st.floats(0.0, 1.0))
)


@given(plan=plans)
def test_cosine_is_the_closed_formula(plan):
    warmup, total, floor = plan
    for step in {0, warmup // 2, warmup, (warmup + total) // 2, total - 1, total}:
        if step < warmup:
            expected = (step + 1) / (warmup + 1)
        else:  # The sine squared of half the angle is another form of the raised cosine.
            angle = math.pi / 2 * (total - step) / (total - warmup)
            expected = floor + (1 - floor) * math.sin(angle) ** 2
        assert schedule_factor("cosine", step, total, warmup_steps=warmup, floor=floor) == pytest.approx(expected)


@given(plan=plans)
def test_linear_is_the_straight_line_between_its_ends(plan):
    warmup, total, floor = plan
    for step in range(warmup, total + 1, max(1, (total - warmup) // 5)):
        expected = (1 * (total - step) + floor * (step - warmup)) / (total - warmup)
        found = schedule_factor("linear", step, total, warmup_steps=warmup, floor=floor)
        assert found == pytest.approx(expected, abs=1e-12)


@given(plan=plans)
def test_a_drop_is_at_its_floor_with_the_first_step_after_the_highest_rate(plan):
    warmup, total, floor = plan
    factors = [schedule_factor("drop", step, total, warmup_steps=warmup, floor=floor) for step in (warmup, warmup + 1)]
    assert factors == [1.0, floor]


@pytest.mark.parametrize("name", DECAYING)
@given(plan=plans, share=st.integers(0, 9))
def test_a_held_rate_stays_and_then_falls_as_one_that_began_there(name, plan, share):
    """In tens of steps, so that the held share is a whole number of them."""
    warmup, total, floor = plan
    total = warmup + 10 * (total - warmup)
    begins = warmup + share * (total - warmup) // 10
    options = {"warmup_steps": warmup, "floor": floor}
    factors = [schedule_factor(name, step, total, hold=share / 10, **options) for step in range(0, total + 1, 7)]
    for step, factor in zip(range(0, total + 1, 7), factors, strict=True):
        if step <= begins:
            expected = min(1, (step + 1) / (warmup + 1))
        else:
            expected = schedule_factor(name, step - begins, total - begins, floor=floor)
        assert factor == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", DECAYING)
@given(plan=plans)
def test_ends_and_monotony(name, plan):
    warmup, total, floor = plan
    factors = [schedule_factor(name, step, total, warmup_steps=warmup, floor=floor) for step in range(total + 3)]
    assert factors[0] == pytest.approx(1 / (warmup + 1))
    assert factors[warmup] == 1.0
    assert factors[total:] == [floor] * 3
    rising, falling = factors[: warmup + 1], factors[warmup:]
    assert all(a < b for a, b in pairwise(rising))
    assert all(a >= b - 1e-15 for a, b in pairwise(falling))


@pytest.mark.parametrize("name", GRADUAL)
@given(plan=plans)
def test_continuous_where_the_warmup_ends(name, plan):
    warmup, total, floor = plan
    assume(warmup >= 1)
    before, at, after = (
        schedule_factor(name, warmup + step, total, warmup_steps=warmup, floor=floor) for step in (-1, 0, 1)
    )
    steepest = max(1 / (warmup + 1), math.pi / 2 / (total - warmup))
    assert abs(at - before) <= steepest + 1e-12
    assert abs(after - at) <= steepest + 1e-12


@given(warmup=st.integers(0, 100), step=st.integers(0, 300), total=st.integers(1, 10**30))
def test_constant_rises_then_stays_whatever_the_end(warmup, step, total):
    factor = schedule_factor("constant", step, total, warmup_steps=warmup, floor=0.5)
    assert factor == (1.0 if step >= warmup else pytest.approx((step + 1) / (warmup + 1)))


@pytest.mark.parametrize("name", DECAYING)
@given(total=st.integers(1, 50), longer=st.integers(0, 50))
def test_a_warmup_as_long_as_the_run_ends_one_step_before_it(name, total, longer):
    for step in range(total):
        found = schedule_factor(name, step, total, warmup_steps=total + longer)
        assert found == schedule_factor(name, step, total, warmup_steps=total - 1)
    assert found == 1.0


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("cosin", 0, 1), {}, "schedule='cosin': must be one of constant, cosine, linear, drop"),
        *(
            case
            for name in (*DECAYING, "constant")
            for case in (
                ((name, -1, 10), {}, "step=-1: must be at least 0"),
                ((name, 0, 0), {}, "total=0: must be at least 1"),
                ((name, 0, 10), {"warmup_steps": -2}, "warmup_steps=-2: must be at least 0"),
                ((name, 0, 10), {"floor": 1.5}, "floor=1.5: must be from 0 to 1"),
                ((name, 0, 10), {"hold": 1.0}, "hold=1.0: must be from 0 to below 1"),
                ((name, 0, 10), {"hold": -0.1}, "hold=-0.1: must be from 0 to below 1"),
                ((name, 0, 10), {"floor": math.nan}, "floor=nan: must be from 0 to 1"),
            )
        ),
    ],
)
def test_bad_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        schedule_factor(*arguments, **options)
