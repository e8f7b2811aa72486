"""Where in a body, and what may stand there: read off the model's own types."""

import json
import re
from collections.abc import Iterator
from typing import Any

from msgspec import inspect

from nova_netagent.model.values import SHOWN

_STEP = re.compile(r"\.([^.\[\]`]+)|\[(\d+)\]")


class Path(tuple[str | int, ...]):
    """The way from a body to a value: names of fields, indexes of lists."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "Path":
        """``.rules[3].protocol`` as a path; what is not of that form is left out."""
        return cls(name or int(index) for name, index in _STEP.findall(text))

    def __truediv__(self, step: str | int) -> "Path":
        return Path((*self, step))

    def __str__(self) -> str:
        text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self)
        return text.removeprefix(".")

    def of(self, body: object) -> object:
        """The value there; ``None`` where the body has none."""
        for step in self:
            try:
                body = body[step]  # type: ignore[index]
            except (TypeError, KeyError, IndexError):
                return None
        return body


def shown(value: object) -> str:
    """A value as an answer repeats it: JSON, and not too much of it."""
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(value, default=lambda other: type(other).__name__)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def fields_at(cls: type, path: Path) -> Iterator[str]:
    """The names of the fields of the object at a path."""
    for each in _types_at(cls, path):
        if isinstance(each, inspect.StructType):
            yield from (field.encode_name for field in each.fields)


def allowed(cls: type, path: Path) -> str:
    """What may stand at a path, in words: ``an integer from 1 to 4094``."""
    words = [_in_words(each) for each in _types_at(cls, path)]
    return " or ".join(dict.fromkeys(words)) or "what may stand here"


def _types_at(cls: type, path: Path) -> list[inspect.Type]:
    types = [inspect.type_info(cls)]
    for step in path:
        types = [found for each in types for found in _step(each, step)]
    return [found for each in types for found in _members(each)]


def _step(type_: inspect.Type, step: str | int) -> Iterator[inspect.Type]:
    for each in _members(type_):
        if isinstance(each, inspect.StructType):
            yield from (field.type for field in each.fields if field.encode_name == step)
        elif isinstance(each, inspect.VarTupleType) and isinstance(step, int):
            yield each.item_type


def _members(type_: inspect.Type) -> Iterator[inspect.Type]:
    """A type without its metadata, a union's members one by one."""
    if isinstance(type_, inspect.Metadata):
        yield from _members(type_.type)
    elif isinstance(type_, inspect.UnionType):
        for each in type_.types:
            yield from _members(each)
    else:
        yield type_


def _in_words(type_: inspect.Type) -> str:
    match type_:
        case inspect.IntType(ge=low, le=high) if low is not None and high is not None:
            return f"an integer from {low} to {high}"
        case inspect.LiteralType(values=values):
            return " or ".join(map(_quoted, values))
        case inspect.CustomType():
            return "what may stand here"
    return _WORDS.get(type(type_), "what may stand here")


def _quoted(value: Any) -> str:
    return json.dumps(value)


_WORDS: dict[type[inspect.Type], str] = {
    inspect.NoneType: "null",
    inspect.BoolType: "true or false",
    inspect.IntType: "an integer",
    inspect.StrType: "a string",
    inspect.VarTupleType: "a list",
    inspect.StructType: "an object",
}
