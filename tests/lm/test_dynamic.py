import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from eru.lm.adapt.dynamic import gradient_rms, predict_dynamically
from eru.lm.model import LanguageModel

V = 7
FORMS = [{}, {"kernel_size": 5}, {"cell": "lstm", "embedding_size": 5}]


def make_model(embedding_size=6, **options):
    torch.manual_seed(0)
    dropouts = {"input_dropout": 0.5, "output_dropout": 0.5, "weight_dropout": 0.5, "embedding_dropout": 0.5}
    model = LanguageModel(V, embedding_size, 9, num_layers=2, **dropouts, **options).double()
    with torch.no_grad():
        model.softmax_bias.normal_()
    return model


def text(tokens, seed=0):
    return np.random.default_rng(seed).integers(0, V, tokens).astype(np.uint16)


def plain_gradients(model, inputs, targets, state):
    """Logits, autograd's own gradients of the mean loss by parameter, and the state, cut from its history."""
    model.zero_grad()
    logits, state = model(inputs, state)
    F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    return logits.detach(), gradients, [tuple(part.detach() for part in layer) for layer in state]


def plain_rms(model, ids, batch_size, segment):
    model = copy.deepcopy(model).eval()
    size = len(ids) // batch_size
    streams = torch.tensor(ids[: size * batch_size].reshape(batch_size, size).astype(np.int64)).t()
    state, found = None, []
    for start in range(0, size - 1, segment):
        end = min(start + segment, size - 1)
        _, gradients, state = plain_gradients(model, streams[start:end], streams[start + 1 : end + 1], state)
        found.append(gradients)
    return [torch.stack(parts).square().mean(dim=0).sqrt() for parts in zip(*found, strict=True)]


def plain_dynamic(model, ids, rms, learning_rate, decay, segment):
    """The logits of a loop written from the paper's equation, one parameter at a time."""
    model = copy.deepcopy(model).eval()
    first = [parameter.detach().clone() for parameter in model.parameters()]
    mean = torch.cat([part.flatten() for part in rms]).mean().item()
    tokens, state, found = torch.tensor(ids.astype(np.int64)).unsqueeze(1), None, []
    for start in range(0, len(ids) - 1, segment):
        end = min(start + segment, len(ids) - 1)
        logits, gradients, state = plain_gradients(model, tokens[start:end], tokens[start + 1 : end + 1], state)
        found.append(logits[:, 0])
        for parameter, origin, gradient, size in zip(model.parameters(), first, gradients, rms, strict=True):
            rate = torch.minimum(decay * size / mean, torch.tensor(1.0))
            change = rate * (origin - parameter.data) - learning_rate * gradient / (size + 2e-5)
            parameter.data += change
    return torch.cat(found)


def logits_of(parts):
    return torch.cat([part.logits for part in parts])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_gradient_statistics_against_a_plain_loop(form, batch_size):
    model, ids = make_model(**form), text(60)
    expected = plain_rms(model, ids, batch_size, 5)
    torch.testing.assert_close(gradient_rms(model, ids, batch_size=batch_size), expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("segment", "decay"), [(5, 0.01), (3, 0.4), (1, 0.0)])
def test_dynamic_evaluation_against_a_plain_loop(form, segment, decay):
    model, ids = make_model(**form), text(24, seed=1)
    rms = plain_rms(model, text(60), 4, 5)
    parts = predict_dynamically(model, ids, rms, learning_rate=0.01, decay=decay, segment=segment)
    expected = plain_dynamic(model, ids, rms, 0.01, decay, segment)
    torch.testing.assert_close(logits_of(parts), expected)
    assert not torch.allclose(expected, plain_dynamic(model, ids, rms, 0.0, decay, segment), rtol=1e-3)
    everything = torch.cat([part.flatten() for part in rms])
    limited = decay * everything / everything.mean() > 1
    assert decay < 0.1 or (limited.any() and not limited.all())  # so the largest one shows the limit


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_without_a_learning_rate_it_is_the_static_model(decay):
    model, ids = make_model().eval(), text(30)
    rms = gradient_rms(model, ids, batch_size=2)
    parts = list(predict_dynamically(model, ids, rms, learning_rate=0.0, decay=decay))
    state = None
    with torch.no_grad():
        for start, part in zip(range(0, 29, 5), parts, strict=True):
            features = model.features(torch.tensor(ids[start : start + len(part.targets)][:, None].astype(int)), state)
            state = features.state
            assert torch.equal(part.hidden, features.raw[:, 0])
            assert torch.equal(part.logits, model.logits(features.dropped)[:, 0])


def test_every_token_is_predicted_once_from_its_past():
    model, ids = make_model(), text(33)
    rms = gradient_rms(model, ids, batch_size=2)

    def read(tokens):
        return list(predict_dynamically(model, tokens, rms, learning_rate=0.01, decay=0.01))

    parts = read(ids)
    assert torch.cat([part.targets for part in parts]).tolist() == ids[1:].tolist()
    assert [len(part.hidden) for part in parts] == [5, 5, 5, 5, 5, 5, 2]
    for changed in (1, 6, 20, 32):
        other = ids.copy()
        other[changed] = (other[changed] + 1) % V
        # The prediction of token n is row n - 1; what follows it, and it itself, must not matter.
        before, after = logits_of(parts), logits_of(read(other))
        assert torch.equal(before[:changed], after[:changed])
        assert changed == 32 or not torch.equal(before[changed:], after[changed:])


def test_what_is_repeated_becomes_likelier():
    model, ids = make_model(), np.tile([1, 2, 3], 80)
    rms = gradient_rms(model, text(200), batch_size=4)
    parts = list(predict_dynamically(model, ids, rms, learning_rate=0.001, decay=1e-3))
    found = [F.cross_entropy(part.logits, part.targets).item() for part in parts]
    assert np.mean(found[-3:]) < 0.5 * np.mean(found[:3])


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    model, ids = make_model().train(training), text(60)
    model.embedding.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    rms = gradient_rms(model, ids, batch_size=2)
    parts = predict_dynamically(model, ids, rms, learning_rate=0.1, decay=0.1)
    for _ in range(3):
        next(parts)
    parts.close()
    with pytest.raises(IndexError):
        list(predict_dynamically(model, np.array([1, 2, 3, 4, 5, 6, 7, V + 1, 0]), rms, learning_rate=0.1, decay=0.1))
    assert model.training == training
    assert not model.embedding.weight.requires_grad
    for name, parameter in model.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])


def test_gradients_are_off_between_the_parts():
    model, ids = make_model(), text(20)
    rms = gradient_rms(model, ids, batch_size=2)
    for part in predict_dynamically(model, ids, rms, learning_rate=0.1, decay=0.1):
        assert torch.is_grad_enabled()
        assert not part.logits.requires_grad
        assert not part.hidden.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": -1.0}, r"learning_rate=-1\.0: must be finite and not negative"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"decay": math.inf}, "decay=inf"),
        ({"segment": 0}, "segment=0: must be at least 1"),
        ({"rms": [torch.ones(3)]}, "rms: must hold one tensor of each parameter's shape"),
        ({"ids": np.array([1])}, "1 tokens are too few"),
    ],
)
def test_bad_arguments_of_the_evaluation(options, message):
    model = make_model()
    options = {"ids": text(9), "rms": list(model.parameters()), "learning_rate": 0.1, "decay": 0.1} | options
    with pytest.raises(ValueError, match=message):
        list(predict_dynamically(model, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 11}, "20 tokens are too few for batch_size=11"),
        ({"segment": -1}, "segment=-1: must be at least 1"),
    ],
)
def test_bad_arguments_of_the_statistics(options, message):
    with pytest.raises(ValueError, match=message):
        gradient_rms(make_model(), text(20), **{"batch_size": 2} | options)
