import math

import pytest

from eru.training import NonFiniteLossError, check_finite


@pytest.mark.parametrize("loss", [0.0, -1.5, 5.1, 1e308])
def test_finite_losses_pass(loss):
    check_finite(loss, step=1)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_others_stop_with_step_loss_and_advice(loss):
    with pytest.raises(NonFiniteLossError, match=f"loss is {loss} at step 1234.*learning rate.*float32"):
        check_finite(loss, step=1234)
    with pytest.raises(NonFiniteLossError, match=r"at step 3 \(epoch 2\): lower"):
        check_finite(loss, step=3, place="epoch 2")
    assert issubclass(NonFiniteLossError, ValueError)
