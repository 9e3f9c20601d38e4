"""What one setting may be: its names, its type, how a text becomes its value, what is allowed.

Made from the Structs of `config.py` and of a worker class's own section by walking their fields. It
must not know about files, the environment or the order of sources. The invariant: `Key.accept`
returns only values that the Struct will take as they are, so whatever is wrong with a value is said
while its source is still known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import inspect

Path = tuple[str, ...]

_SWITCH: dict[str, bool] = {
    word: value
    for value, words in ((True, ("true", "yes", "1")), (False, ("false", "no", "0")))
    for word in words
}


def canonical(name: str) -> str:
    """`requestTimeout`, `request-timeout` and `request_timeout` -> `REQUEST_TIMEOUT`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").upper()


def camel(name: str) -> str:
    """`REQUEST_TIMEOUT` -> `requestTimeout`."""
    return re.sub(r"_+([a-z0-9])", lambda match: match[1].upper(), name.lower())


@dataclass(frozen=True, slots=True)
class Key:
    """One setting. `path` holds its names from the outside in, as files spell them.

    `attributes` are the names that lead from the Struct to the value.
    """

    path: Path
    attributes: Path
    type: Any
    info: inspect.Type
    required: bool

    @property
    def dotted(self) -> str:
        return ".".join(self.path)

    @property
    def env(self) -> str:
        return "WRK_" + "__".join(canonical(part) for part in self.path)

    @property
    def description(self) -> str:
        schema = self.info.extra_json_schema if isinstance(self.info, inspect.Metadata) else None
        return str((schema or {}).get("description", ""))

    def value_in(self, struct: msgspec.Struct) -> Any:
        return attrgetter(".".join(self.attributes))(struct)

    def accept(self, value: Any) -> Any:
        """`value` as the Struct takes it; `ValueError` says what is allowed."""
        if isinstance(_bare(self.info), inspect.BoolType) and type(value) is int and value in (0, 1):
            value = bool(value)
        try:
            msgspec.convert(value, self.type)
        except msgspec.ValidationError:
            raise ValueError(f"must be {allowed(self.info)}") from None
        return value

    def read(self, text: str) -> Any:
        """`text` as a plain value. What does not fit stays text, which `accept` then refuses."""
        return _read(text, self.info)


def keys_of(struct: type[msgspec.Struct], prefix: Path = (), attributes: Path = ()) -> Iterator[Key]:
    """Every setting below `struct`, in the order of declaration; a field that is a Struct is a section."""
    for field in msgspec.structs.fields(struct):
        path, names = (*prefix, field.encode_name), (*attributes, field.name)
        info = inspect.type_info(field.type)
        bare = _bare(info)
        if isinstance(bare, inspect.StructType):
            yield from keys_of(bare.cls, path, names)
        else:
            yield Key(path, names, field.type, info, field.required)


def _bare(info: inspect.Type) -> inspect.Type:
    return _bare(info.type) if isinstance(info, inspect.Metadata) else info


def _read(text: str, info: inspect.Type) -> Any:
    match _bare(info):
        case inspect.UnionType(types=kinds):
            return _read_any(text, kinds)
        case inspect.BoolType():
            return _SWITCH.get(text.lower(), text)
        case inspect.IntType():
            return _or_text(text, int)
        case inspect.FloatType():
            return _or_text(text, float)
        case inspect.LiteralType(values=values):
            return next((value for value in values if str(value) == text), text)
        case inspect.DictType(value_type=kind):
            return _or_text(text, json.loads if text.startswith("{") else lambda t: _read_map(t, kind))
        case inspect.ListType(item_type=kind) | inspect.VarTupleType(item_type=kind):
            return _read_list(text, kind)
        case inspect.SetType(item_type=kind) | inspect.FrozenSetType(item_type=kind):
            return _read_list(text, kind)
    return text


def _read_any(text: str, kinds: tuple[inspect.Type, ...]) -> Any:
    if not text and any(isinstance(kind, inspect.NoneType) for kind in kinds):
        return None
    values = (_read(text, kind) for kind in kinds)
    return next((value for value in values if not isinstance(value, str)), text)


def _read_list(text: str, kind: inspect.Type) -> Any:
    if text.startswith("["):
        return _or_text(text, json.loads)
    return [_read(item.strip(), kind) for item in text.split(",")] if text.strip() else []


def _read_map(text: str, kind: inspect.Type) -> dict[str, Any]:
    pairs = [item.split("=", 1) for item in text.split(",")] if text.strip() else []
    return {name.strip(): _read(value.strip(), kind) for name, value in pairs}


def _or_text(text: str, reader: Callable[[str], Any]) -> Any:
    try:
        return reader(text)
    except (ValueError, RecursionError):
        return text


def allowed(info: inspect.Type) -> str:
    """What a value of this type may be, in words."""
    match info:
        case inspect.Metadata(type=kind, extra_json_schema=schema, extra=extra):
            words: str = (schema or {}).get("title") or allowed(kind)
            return f"{words} ({extra['unit']})" if extra and "unit" in extra else words
        case inspect.UnionType(types=kinds):
            return " or ".join(allowed(kind) for kind in kinds)
        case inspect.NoneType():
            return "null"
        case inspect.BoolType():
            return "true or false (1 or 0)"
        case inspect.IntType():
            return "an integer" + _range(info)
        case inspect.FloatType():
            return "a number" + _range(info)
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(str(value) for value in values)
        case inspect.EnumType(cls=kind):
            return "one of " + ", ".join(str(member.value) for member in kind)
        case inspect.StrType():
            return "text" + _range(info) + (f" matching {info.pattern}" if info.pattern else "")
        case inspect.DictType(value_type=kind):
            return f"a map of names to values{_range(info)}, each {allowed(kind)}"
        case inspect.CollectionType(item_type=kind):
            return f"a list{_range(info)}, each {allowed(kind)}"
    return "a value of type " + type(info).__name__.removesuffix("Type").lower()


def _range(info: Any) -> str:
    if hasattr(info, "min_length"):
        unit = " characters" if isinstance(info, inspect.StrType) else " items"
        bounds = [_between(info.min_length, info.max_length, unit)]
    else:
        bounds = [_between(info.ge, info.le, "")]
        bounds += [f" above {_plain(info.gt)}"] if info.gt is not None else []
        bounds += [f" below {_plain(info.lt)}"] if info.lt is not None else []
    return " and".join(bound for bound in bounds if bound)


def _between(low: float | None, high: float | None, unit: str) -> str:
    if low is not None and high is not None:
        return f" from {_plain(low)} to {_plain(high)}{unit}"
    if low is not None:
        return f" of at least {_plain(low)}{unit}"
    return f" of at most {_plain(high)}{unit}" if high is not None else ""


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)
