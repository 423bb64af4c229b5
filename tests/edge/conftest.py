from dataclasses import replace

import pytest
import torch

from eru.lm.build import build_model
from eru.lm.recipes import make_recipe
from eru.lm.text.vocabulary import WordTokenizer
from eru.training import RunFolder

WORDS = 61


@pytest.fixture(scope="session")
def make_run(tmp_path_factory):
    """Make the run folder of a small model in the form of a recipe, with weights as they are drawn.

    Exporting takes seconds for each layer, so there is one unless more are asked for.
    """

    def make(name, tokenizer=None, **changes):
        sizes = {"embedding_size": 24, "hidden_size": 48, "num_layers": 1}
        recipe = replace(make_recipe(name), **{**sizes, **changes})
        tokenizer = tokenizer or WordTokenizer(["<unk>", "<eos>", *map(str, range(WORDS - 2))], unknown=0, eos=1)
        torch.manual_seed(1)
        model = build_model(recipe, tokenizer.vocab_size)
        # Drawn weights make nearly even scores, on which nothing could be seen.
        with torch.no_grad():
            model.embedding.weight.mul_(6)
            model.softmax_bias.normal_()
        config = {"kind": "language-model", "recipe": recipe.__dict__, "data": {"name": "numbers", "fingerprint": "0"}}
        folder = RunFolder.create(tmp_path_factory.mktemp("runs") / name, config)
        folder.save_weights(model.state_dict())
        tokenizer.save(folder.path / "tokenizer")
        return folder.path

    return make


@pytest.fixture(scope="session")
def run(make_run):
    return make_run("awd-7m")


@pytest.fixture(scope="session")
def deep_run(make_run):
    """A run of two layers of different widths, whose states must not be taken for one another."""
    return make_run("awd-7m", num_layers=2)
