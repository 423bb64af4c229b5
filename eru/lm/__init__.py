"""Language models: train one, open it, evaluate it, and let it write.

Example:
    >>> from eru import lm
    >>> run = lm.open_run("ptb-awd-7m")
    >>> lm.generate(run, "the company said", tokens=3, seed=1).startswith("the company said")
    True
"""

from eru.lm.evaluate import evaluate
from eru.lm.generate import generate
from eru.lm.recipes import RECIPES, Recipe, make_recipe
from eru.lm.run_folder import LanguageModelRun, open_run, trained_names
from eru.lm.train import Result, train

__all__ = [
    "RECIPES",
    "LanguageModelRun",
    "Recipe",
    "Result",
    "evaluate",
    "generate",
    "make_recipe",
    "open_run",
    "train",
    "trained_names",
]
