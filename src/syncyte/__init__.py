"""One model body for single cells measured in more than one way.

The public verbs, found on first use (PEP 562): importing this package reads no file, touches no device and loads
neither torch nor anndata. Everything else is imported by its full name, e.g. ``syncyte.genome.reference``.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers only
    from syncyte.api import (
        annotate,
        count_fragments,
        describe,
        embed,
        evaluate,
        generate,
        harmonise,
        integrate,
        load,
        map_labels,
        perturb,
        read,
        search,
        top_regions,
        train,
        translate,
        variants,
    )
    from syncyte.recipes.simulate import simulate
    from syncyte.recipes.simulate_regulation import simulate_regulation
    from syncyte.walkthrough import demo

_VERBS = {
    "read": ("syncyte.api", "read"),
    "harmonise": ("syncyte.api", "harmonise"),
    "count_fragments": ("syncyte.api", "count_fragments"),
    "train": ("syncyte.api", "train"),
    "load": ("syncyte.api", "load"),
    "embed": ("syncyte.api", "embed"),
    "integrate": ("syncyte.api", "integrate"),
    "annotate": ("syncyte.api", "annotate"),
    "search": ("syncyte.api", "search"),
    "describe": ("syncyte.api", "describe"),
    "translate": ("syncyte.api", "translate"),
    "top_regions": ("syncyte.api", "top_regions"),
    "generate": ("syncyte.api", "generate"),
    "perturb": ("syncyte.api", "perturb"),
    "variants": ("syncyte.api", "variants"),
    "evaluate": ("syncyte.api", "evaluate"),
    "map_labels": ("syncyte.api", "map_labels"),
    "demo": ("syncyte.walkthrough", "demo"),
    "simulate": ("syncyte.recipes.simulate", "simulate"),
    "simulate_regulation": ("syncyte.recipes.simulate_regulation", "simulate_regulation"),
}

__all__ = [  # noqa: RUF022 - the order in which a user meets them
    "read",
    "harmonise",
    "count_fragments",
    "train",
    "load",
    "embed",
    "integrate",
    "annotate",
    "search",
    "describe",
    "translate",
    "top_regions",
    "generate",
    "perturb",
    "variants",
    "evaluate",
    "map_labels",
    "demo",
    "simulate",
    "simulate_regulation",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module, metadata

    if name == "__version__":
        return metadata.version("syncyte")
    if name in _VERBS:
        module, attribute = _VERBS[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'syncyte' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])


class _Package(ModuleType):
    """Keeps ``syncyte.train`` the verb: the import system would bind the folder of the same name over it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _VERBS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
