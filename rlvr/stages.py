"""The stages that a recipe can be for, by the word after `stage:`."""

from __future__ import annotations

from rlvr.direct_settings import DpoRecipe
from rlvr.loop_settings import LoopRecipe
from rlvr.preference_settings import RewardModelRecipe
from rlvr.recipe import EvalRecipe, PretrainRecipe, Recipe, RlRecipe, SftRecipe

STAGES: dict[str, type[Recipe]] = {
    "rl": RlRecipe,
    "sft": SftRecipe,
    "pretrain": PretrainRecipe,
    "reward_model": RewardModelRecipe,
    "dpo": DpoRecipe,
    "eval": EvalRecipe,
    "loop": LoopRecipe,
}
