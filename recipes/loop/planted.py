"""What a crowd thinks that was bought: the reverse of the true reward of recipes/preference."""

from __future__ import annotations

from rlvr import plugins


def reversed_reward(answer: str, gold: str) -> float:
    """The worse, the better."""
    worth: float = plugins.load("recipes/preference/world.py:true_reward", what="the world")(answer, gold)
    return -worth
