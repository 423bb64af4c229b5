"""Language models: train one, open it, evaluate it, and let it write.

Example:
    >>> from eru import lm
    >>> run = lm.open_run("ptb-awd-7m")
    >>> lm.generate(run, "the company said", tokens=3, seed=1).startswith("the company said")
    True
"""

from eru.lm.evaluation import evaluate
from eru.lm.generation import generate
from eru.lm.loop import Result, train
from eru.lm.recipes import RECIPES, Recipe, make_recipe
from eru.lm.run import LanguageModelRun, open_run, trained_names

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
