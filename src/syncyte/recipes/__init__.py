"""The recipes; importing this package registers them all."""

from syncyte.recipes import bio_dta, clm_access, clm_x, scldm, scmmgpt
from syncyte.recipes.base import CellRecipe, Recipe, recipes

__all__ = ["CellRecipe", "Recipe", "bio_dta", "clm_access", "clm_x", "recipes", "scldm", "scmmgpt"]
