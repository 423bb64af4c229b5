import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from eru.training import constant, make_schedule, warmup_cosine, warmup_linear

DECAYING = [warmup_cosine, warmup_linear]
plans = st.integers(1, 2000).flatmap(
    lambda total: st.tuples(st.integers(0, total - 1), st.just(total), st.floats(0.0, 1.0))
)


@given(plan=plans)
def test_cosine_is_the_closed_formula(plan):
    warmup, total, floor = plan
    schedule = warmup_cosine(warmup, total, floor)
    for step in {0, warmup // 2, warmup, (warmup + total) // 2, total - 1, total}:
        if step < warmup:
            expected = (step + 1) / (warmup + 1)
        else:  # sin^2 of half the angle, another form of the raised cosine
            angle = math.pi / 2 * (total - step) / (total - warmup)
            expected = floor + (1 - floor) * math.sin(angle) ** 2
        assert schedule(step) == pytest.approx(expected, abs=1e-12)


@given(plan=plans)
def test_linear_is_the_straight_line_between_its_ends(plan):
    warmup, total, floor = plan
    schedule = warmup_linear(warmup, total, floor)
    for step in range(warmup, total + 1, max(1, (total - warmup) // 5)):
        expected = (1 * (total - step) + floor * (step - warmup)) / (total - warmup)
        assert schedule(step) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("make", DECAYING)
@given(plan=plans)
def test_ends_and_monotony(make, plan):
    warmup, total, floor = plan
    schedule = make(warmup, total, floor)
    factors = [schedule(step) for step in range(total + 3)]
    assert factors[0] == pytest.approx(1 / (warmup + 1))
    assert factors[warmup] == 1.0
    assert factors[total:] == [floor] * 3
    rising, falling = factors[: warmup + 1], factors[warmup:]
    assert all(a < b for a, b in pairwise(rising))
    assert all(a >= b - 1e-15 for a, b in pairwise(falling))


@pytest.mark.parametrize("make", DECAYING)
@given(plan=plans)
def test_continuous_where_the_warmup_ends(make, plan):
    warmup, total, floor = plan
    assume(warmup >= 1)
    schedule = make(warmup, total, floor)
    steepest = max(1 / (warmup + 1), math.pi / 2 / (total - warmup))
    assert abs(schedule(warmup) - schedule(warmup - 1)) <= steepest + 1e-12
    assert abs(schedule(warmup + 1) - schedule(warmup)) <= steepest + 1e-12


@given(warmup=st.integers(0, 100), step=st.integers(0, 300))
def test_constant_rises_then_stays(warmup, step):
    factor = constant(warmup)(step)
    assert factor == (1.0 if step >= warmup else pytest.approx((step + 1) / (warmup + 1)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("constant", constant(3)), ("cosine", warmup_cosine(3, 20, 0.1)), ("linear", warmup_linear(3, 20, 0.1))],
)
def test_names(name, expected):
    schedule = make_schedule(name, warmup=3, total=20, floor=0.1)
    assert [schedule(step) for step in range(25)] == [expected(step) for step in range(25)]


@pytest.mark.parametrize("make", DECAYING)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 10), "warmup must be at least 0 steps, got -1"),
        ((10, 10), "warmup must be below total = 10, got 10"),
        ((0, 0), "total must be at least 1 step, got 0"),
        ((0, 10, 1.5), "floor must be from 0 to 1, got 1.5"),
        ((0, 10, math.nan), "floor must be from 0 to 1, got nan"),
    ],
)
def test_bad_arguments(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(*arguments)


def test_bad_name_warmup_and_step():
    with pytest.raises(ValueError, match="'constant', 'cosine' or 'linear', got 'cosin'"):
        make_schedule("cosin", warmup=0, total=1)
    with pytest.raises(ValueError, match="warmup must be at least 0 steps, got -2"):
        constant(-2)
    for schedule in (constant(), warmup_cosine(2, 5), warmup_linear(2, 5)):
        with pytest.raises(ValueError, match="step must be at least 0, got -1"):
            schedule(-1)
