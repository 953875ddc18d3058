"""The experiments that papers and tutorials teach, by name: `ddim-bench recipe NAME`.

Each module is one of them: its docstring says what it follows and where it departs from it, its numbers are a preset.
"""

from bench.recipes import cosine_selfcond, ddim_respaced, ddpm_cifar10, fashion_mnist_mindspore, mnist_scratch
from bench.recipes.recipe import Recipe

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (
    mnist_scratch.RECIPE, ddpm_cifar10.RECIPE, ddim_respaced.RECIPE, cosine_selfcond.RECIPE, fashion_mnist_mindspore.RECIPE)}
