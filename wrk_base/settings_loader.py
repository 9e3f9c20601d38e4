"""Where settings come from: defaults, files, `WRK_*` variables, flags; later ones win.

    defaults < common.json < <env>.common.json < environment < flags

The only reader of settings files; the environment is an argument. Objects in files are merged key by
key, so an overlay names only what differs; a list or a map is one value and is replaced as a whole.
Every value is checked where it is found, so that an error can name source, key, value and what is
allowed, in one line. The invariant: whatever `load` returns has been checked, and `origins` names
the source of each setting.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import msgspec

from .config import ENVIRONMENTS, ORDERED, Settings
from .errors import SettingsError
from .settings_keys import Key, camel, canonical, keys_of

RESERVED = ("WRK_CONFIG", "WRK_STATE_DIR", "WRK_ENV", "WRK_RACK")  # what to run and where, not how
RESERVED_PREFIX = "WRK_TEST_"
SHOWN = 80  # characters of a refused value or key: enough to recognise it, and one line stays one line


@dataclass(frozen=True, slots=True)
class Loaded:
    """The effective settings. `section` is the worker class's own, None if it has none."""

    settings: Settings
    section: msgspec.Struct | None
    origins: dict[str, str]
    section_name: str = ""


def load(
    *,
    config_dir: Path | None,
    env: str,
    environ: Mapping[str, str],
    flags: Sequence[tuple[str, str]],
    section: str | None = None,
    section_type: type[msgspec.Struct] | None = None,
    known_sections: Iterable[str] = (),
) -> Loaded:
    """All sources merged and checked.

    `section` and `section_type` are the worker class's own section, `known_sections` those of other
    classes, which files and environment may hold as well. Raises `SettingsError`.
    """
    if env not in ENVIRONMENTS:
        raise _refusal("--env or WRK_ENV", "env", env, "must be one of " + ", ".join(ENVIRONMENTS))
    merge = _Merge(section or "", section_type, known_sections)
    for name in ("common.json", f"{env}.common.json") if config_dir else ():
        path = Path(config_dir or "") / name
        merge.add_object(str(path), read_object(path))
    for name in sorted(environ):
        if name.startswith("WRK_") and name not in RESERVED and not name.startswith(RESERVED_PREFIX):
            merge.add_variable(name, environ[name])
    for name, text in flags:
        merge.add_flag(name, text)
    return merge.result()


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file; empty if there is no such file."""
    try:
        value = json.loads(path.read_text("utf-8-sig"), parse_constant=_no_constant)
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise SettingsError(f"{path}, line {error.lineno}: not valid JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}, line {line}: not valid UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}, line 1: not valid JSON: {error}") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    if not isinstance(value, dict):
        raise SettingsError(f"{path}, line 1: must hold a JSON object, not {_shown(value)}")
    return value


class _Merge:
    """Values found so far, each with its origin; the last one added wins."""

    def __init__(self, section: str, kind: type[msgspec.Struct] | None, known: Iterable[str]) -> None:
        own = list(keys_of(kind, (section,))) if kind else []
        if kind and section in Settings.__struct_encode_fields__:
            raise SettingsError(f"section {section}: the name is taken by a setting of every process")
        self._section, self._kind = section, kind
        self._known = frozenset(known) - {section}  # mistakes in the own one count
        self.keys = {key.path: key for key in (*keys_of(Settings), *own)}
        self._by_name = {_canonical(path): key for path, key in self.keys.items()}
        self._sections = {path[:end] for path in self.keys for end in range(1, len(path))}
        self._values: dict[tuple[str, ...], Any] = {}
        self._origins = {key.dotted: "default" for key in self.keys.values()}

    def add_object(self, source: str, value: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> None:
        for name, item in value.items():
            path = (*prefix, name)
            if path in self.keys:
                self._set(source, self.keys[path], item)
            elif path in self._sections:
                if not isinstance(item, dict):
                    rule = f"must be an object. {self._members(path)}"
                    raise _refusal(source, ".".join(path), item, rule)
                self.add_object(source, item, path)
            elif not self._foreign(path, item):
                raise self._unknown(source, path, item, lambda key: key.dotted)

    def add_variable(self, name: str, text: str) -> None:
        parts = tuple(name.removeprefix("WRK_").split("__"))
        key = self._by_name.get(parts)
        if key is not None:
            self._set(f"environment {name}", key, key.read(text), text)
        elif parts[0] not in {canonical(known) for known in self._known} or len(parts) == 1:
            path = tuple(camel(part) for part in parts)
            raise self._unknown(f"environment {name}", path, text, lambda key: key.env)

    def add_flag(self, name: str, text: str) -> None:
        """`--requestTimeout`, `--request-timeout`, `--rpc.port`; without a dot also the own section."""
        path = tuple(name.split("."))
        key = self._by_name.get(_canonical(path)) or self._by_name.get(_canonical((self._section, *path)))
        if key is None:
            raise self._unknown(f"flag --{name}", path, text, lambda key: f"--{key.dotted}")
        self._set(f"flag --{name}", key, key.read(text), text)

    def _set(self, source: str, key: Key, value: Any, shown: Any = None) -> None:
        try:
            self._values[key.path] = key.accept(value)
        except ValueError as error:
            raise _refusal(source, key.dotted, value if shown is None else shown, str(error)) from None
        self._origins[key.dotted] = source

    def _foreign(self, path: tuple[str, ...], value: Any) -> bool:
        """Not for this process: another class's section, or the reference to the schema for editors."""
        return path == ("$schema",) or (len(path) == 1 and path[0] in self._known and isinstance(value, dict))

    def _unknown(
        self, source: str, path: tuple[str, ...], value: Any, spell: Callable[[Key], str]
    ) -> SettingsError:
        near = [spell(key) for key in _closest(path, self.keys.values())]
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        section = path[:-1] if path[:-1] in self._sections else ()
        return _refusal(source, ".".join(path), value, f"no such setting{hint} {self._members(section)}")

    def _members(self, section: tuple[str, ...]) -> str:
        depth = len(section)
        names = dict.fromkeys(path[depth] for path in self.keys if path[:depth] == section)
        return "Allowed" + (f" in {'.'.join(section)}" if section else "") + f": {', '.join(names)}"

    def result(self) -> Loaded:
        self._check_required()
        tree: dict[str, Any] = {}
        for path, value in self._values.items():
            _branch(tree, path[:-1])[path[-1]] = value
        own = tree.pop(self._section, {}) if self._kind else {}
        settings = msgspec.convert(tree, Settings)
        self._check_order(settings)
        return Loaded(settings, self._own(own), self._origins, self._section if self._kind else "")

    def _own(self, values: dict[str, Any]) -> msgspec.Struct | None:
        try:
            return msgspec.convert(values, self._kind) if self._kind else None
        except (ValueError, TypeError) as error:  # a rule of the class's own, in its __post_init__
            raise SettingsError(f"section {self._section}: {error}") from None

    def _check_required(self) -> None:
        for path, key in self.keys.items():
            if key.required and path not in self._values:
                ways = f"a settings file, {key.env} or --{key.dotted}"
                raise SettingsError(f"{key.dotted}: must be given by {ways}; it has no default")

    def _check_order(self, settings: Settings) -> None:
        values = {key.dotted: key.value_in(settings) for key in keys_of(Settings)}
        for low, relation, high in ORDERED:
            if values[low] < values[high] or (values[low] == values[high] and relation == "at most"):
                continue
            if self._origins[low] == "default":  # then it is the other one that somebody set
                low, relation, high = high, {"at most": "at least", "below": "above"}[relation], low
            bound = f"must be {relation} {high} = {values[high]} ({self._origins[high]})"
            raise _refusal(self._origins[low], low, values[low], bound)


def show(loaded: Loaded) -> str:
    """The effective result for people: one `key = value   # origin` line per setting, by section."""
    leaves = [(key, key.value_in(loaded.settings)) for key in keys_of(type(loaded.settings))]
    if loaded.section is not None:
        own = keys_of(type(loaded.section), (loaded.section_name,))
        leaves += [(key, key.value_in(loaded.section)) for key in own]
    lines: list[str] = []
    for key, value in sorted(leaves, key=lambda leaf: leaf[0].path[:-1]):
        lines += [f"# {key.description}"] if key.description else []
        text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
        lines += [f"{key.dotted} = {text}   # {loaded.origins[key.dotted]}"]
    return "\n".join(lines)


def _refusal(source: str, key: str, value: Any, rule: str) -> SettingsError:
    return SettingsError(f"{source}: {_line(key)} = {_shown(value)}: {rule}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _line(key: str) -> str:
    return key if key.isprintable() and len(key) <= SHOWN else _shown(key)


def _closest(path: tuple[str, ...], keys: Iterable[Key], limit: int = 3) -> list[Key]:
    """Keys spelt most like `path`, whole or by their last part: a right name in the wrong section counts."""

    def likeness(key: Key) -> float:
        pairs = ((path, key.path), (path[-1:], key.path[-1:]))
        return max(_ratio(".".join(_canonical(a)), ".".join(_canonical(b))) for a, b in pairs)

    scored = sorted(((likeness(key), key) for key in keys), key=lambda pair: -pair[0])
    return [key for score, key in scored[:limit] if score >= 0.75]


def _ratio(a: str, b: str) -> float:
    return SequenceMatcher(None, a[:SHOWN], b[:SHOWN]).ratio()


def _canonical(path: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(canonical(part) for part in path)


def _branch(tree: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for name in path:
        tree = tree.setdefault(name, {})
    return tree


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
