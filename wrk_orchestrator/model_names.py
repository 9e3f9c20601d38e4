"""Which models a name stands for: aliases, and the fallbacks that may answer in a model's place. Pure.

An alias is another name for one model, wherever a model is named: in a request, among fallbacks, in an API
key. It is the operator's word and holds whatever racks offer, so that none can take its place by calling a
model so. (Who wants it the other way round names a fallback: that is asked when the model itself cannot
answer.) Fallbacks are those listed for the model, and not theirs in turn, so two models may stand in for
each other.

All of it is worked out once; a request costs one look-up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from wrk_base.errors import SettingsError


class ModelNames:
    """`aliases`: name -> model or alias; `fallbacks`: model -> others, the first one first.

    Raises `SettingsError` for aliases that lead in a circle, and for fallbacks that name a model twice.
    """

    def __init__(
        self, aliases: Mapping[str, str] | None = None, fallbacks: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.aliases = _models_of(aliases or {})
        self._chains = _chains(self.aliases, fallbacks or {})
        self._spellings: dict[str, list[str]] = {}
        for alias, model in self.aliases.items():
            self._spellings.setdefault(model, [model]).append(alias)

    def model(self, name: str) -> str:
        """The model that goes by this name."""
        return self.aliases.get(name, name)

    def known(self) -> Iterable[str]:
        """All aliases, and all models that have fallbacks."""
        return self._chains.keys()

    def chain(self, name: str) -> tuple[str, ...]:
        """The models to try in turn for a request that names `name`; never empty."""
        return self._chains.get(name) or (name,)

    def chain_within(self, name: str, names: Collection[str]) -> tuple[str, ...]:
        """The same for somebody who may use no models but those called `names`; empty if `name` is none of
        them. A model may be used whichever of its names is listed, and a fallback widens nothing."""
        model, *others = self.chain(name)
        if not self._is_among(model, names):
            return ()
        return (model, *(other for other in others if self._is_among(other, names)))

    def _is_among(self, model: str, names: Collection[str]) -> bool:
        return any(spelling in names for spelling in self._spellings.get(model, (model,)))


def _models_of(aliases: Mapping[str, str]) -> dict[str, str]:
    """Alias -> the model that it stands for in the end."""
    models: dict[str, str] = {}
    for alias in aliases:
        path = {alias: None}
        name = aliases[alias]
        while name in aliases and name not in models:
            if name in path:
                circle = " -> ".join((*path, name))
                raise SettingsError(
                    f"routing.aliases: {circle}: an alias must lead to a model, not in a circle"
                )
            path[name] = None
            name = aliases[name]
        models.update(dict.fromkeys(path, models.get(name, name)))
    return models


def _chains(models: Mapping[str, str], fallbacks: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Name -> the models to try, for every name that does not stand for itself alone."""
    chains: dict[str, tuple[str, ...]] = {}
    said: dict[str, str] = {}  # model -> the key that has its fallbacks
    for key, others in fallbacks.items():
        chain = tuple(models.get(name, name) for name in (key, *others))
        other_key = said.setdefault(chain[0], key)
        if other_key != key:
            raise SettingsError(f"routing.fallbacks: {other_key} and {key} are one model; name it once")
        for position, model in enumerate(chain):
            if model in chain[:position]:
                raise SettingsError(f"routing.fallbacks: {key}: {model} would be tried twice; name it once")
        chains[chain[0]] = chain
    chains.update({alias: chains.get(model, (model,)) for alias, model in models.items()})
    return chains


NO_OTHER_NAMES = ModelNames()
