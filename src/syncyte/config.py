"""Strict, frozen configuration and the one registry.

A configuration is a frozen pydantic model: unknown keys are errors that name the nearest valid key, values
are checked, and the whole of it is written beside the weights of every run. Overrides are dotted
(``stages.rna.epochs=5``). Left out on purpose: environment variables, interpolation, inheritance of files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from syncyte.errors import ConfigError, unknown

T = TypeVar("T")


class Config(BaseModel):
    """Base of all configurations: frozen, no extra keys, defaults validated."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values.

        Raises
        ------
        ConfigError
            With the path of the bad key and, for an unknown one, the nearest valid name.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_explain(error, cls, values)) from None

    def override(self, assignments: Iterable[str]) -> Self:
        """Copy with dotted assignments applied, e.g. ``["stages.rna.epochs=5", "width=32"]``."""
        values = self.model_dump(mode="python")
        for text in assignments:
            path, separator, raw = text.partition("=")
            if not separator or not path.strip():
                raise ConfigError(
                    f"Cannot read the setting {text!r}. Write it as name=value, e.g. stages.rna.epochs=5."
                )
            _assign(values, path.strip().split("."), _scalar(raw), path.strip())
        return type(self).parse(values)


def _scalar(raw: str) -> Any:
    import yaml

    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        return raw
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text; users mean the number
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _assign(values: Any, parts: list[str], value: Any, path: str) -> None:
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if not isinstance(values, dict):
            raise ConfigError(
                f"Setting {path!r}: {'.'.join(parts[:depth])!r} is a single value and has no key {part!r}."
            )
        if part not in values:
            prefix = ".".join(parts[:depth])
            where = f"setting under {prefix!r}" if prefix else "setting"
            raise ConfigError(unknown(where, part, values))
        if last:
            values[part] = value
        else:
            values = values[part]


def _explain(error: ValidationError, cls: type[BaseModel], values: Mapping[str, Any]) -> str:
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(unknown("setting", path, _siblings(cls, values, item["loc"])))
        else:
            lines.append(f"Setting {path!r} = {item.get('input')!r} is not valid: {item['msg']}.")
    return " ".join(lines)


def _siblings(cls: type[BaseModel], values: Mapping[str, Any], loc: tuple[int | str, ...]) -> list[str]:
    """Valid names at the level of an unknown key, found by walking the declared fields."""
    current: Any = cls
    for part in loc[:-1]:
        fields = getattr(current, "model_fields", {})
        annotation = fields[part].annotation if part in fields else None
        current = annotation if hasattr(annotation, "model_fields") else current
    prefix = [str(part) for part in loc[:-1]]
    return [".".join([*prefix, name]) for name in getattr(current, "model_fields", {})]


class Registry(Generic[T]):
    """Names to objects of one kind; an unknown name is an error that lists what exists."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def add(self, name: str) -> Callable[[T], T]:
        """Decorator (or call) that registers an object under ``name``; a second use of a name is refused."""

        def register(item: T) -> T:
            if name in self._items:
                raise ConfigError(f"The {self.kind} {name!r} is registered twice.")
            self._items[name] = item
            return item

        return register

    def __getitem__(self, name: str) -> T:
        if name not in self._items:
            raise ConfigError(unknown(self.kind, name, self._items))
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def items(self) -> Iterable[tuple[str, T]]:
        """Pairs of name and object, in order of registration."""
        return self._items.items()
