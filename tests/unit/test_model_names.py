"""Names of models: what an alias stands for, who answers in whose place, what a limited caller may reach."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrk_base.errors import SettingsError
from wrk_orchestrator.model_names import ModelNames

NAMES = ModelNames(
    {"gpt-4o": "large", "best": "gpt-4o", "cheap": "small"},
    {"large": ["cheap", "tiny"], "small": ["large"]},
)


def test_a_name_that_no_setting_mentions_stands_for_itself() -> None:
    assert NAMES.chain("other") == ("other",)
    assert NAMES.model("other") == "other"
    assert ModelNames().chain("m") == ("m",)


def test_aliases_lead_to_a_model_over_any_number_of_steps() -> None:
    assert NAMES.aliases == {"gpt-4o": "large", "best": "large", "cheap": "small"}
    assert NAMES.model("best") == "large"
    assert NAMES.chain("cheap") == ("small", "large")


def test_fallbacks_are_those_of_the_model_whatever_it_was_called() -> None:
    assert NAMES.chain("large") == NAMES.chain("gpt-4o") == NAMES.chain("best") == ("large", "small", "tiny")
    assert NAMES.chain("tiny") == ("tiny",)
    by_alias = ModelNames({"gpt-4o": "large"}, {"gpt-4o": ["small"]})
    assert by_alias.chain("large") == by_alias.chain("gpt-4o") == ("large", "small")


def test_fallbacks_of_fallbacks_are_not_followed_so_two_models_may_stand_in_for_each_other() -> None:
    names = ModelNames(fallbacks={"a": ["b"], "b": ["a"], "c": ["a"]})
    assert [names.chain(name) for name in "abc"] == [("a", "b"), ("b", "a"), ("c", "a")]


@pytest.mark.parametrize(
    ("aliases", "circle"),
    [
        ({"a": "a"}, "a -> a"),
        ({"a": "b", "b": "a"}, "a -> b -> a"),
        ({"fine": "m", "in": "b", "b": "c", "c": "b"}, "in -> b -> c -> b"),
    ],
)
def test_aliases_in_a_circle_stop_the_start_and_are_named(aliases: dict[str, str], circle: str) -> None:
    with pytest.raises(SettingsError, match="must lead to a model") as caught:
        ModelNames(aliases)
    assert str(caught.value).startswith(f"routing.aliases: {circle}: ")


@pytest.mark.parametrize(
    ("fallbacks", "said"),
    [
        ({"large": ["small", "small"]}, "routing.fallbacks: large: small would be tried twice"),
        ({"large": ["large"]}, "routing.fallbacks: large: large would be tried twice"),
        ({"large": ["gpt-4o"]}, "routing.fallbacks: large: large would be tried twice"),
        ({"large": ["a"], "gpt-4o": ["b"]}, "routing.fallbacks: large and gpt-4o are one model"),
    ],
)
def test_fallbacks_that_contradict_themselves_stop_the_start(
    fallbacks: dict[str, list[str]], said: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        ModelNames({"gpt-4o": "large"}, fallbacks)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("asked", "listed", "models"),
    [
        ("large", ["large"], ("large",)),
        ("large", ["large", "tiny"], ("large", "tiny")),
        ("large", ["large", "cheap"], ("large", "small")),  # by an alias of a fallback
        ("best", ["large"], ("large",)),
        ("large", ["best"], ("large",)),
        ("best", ["gpt-4o"], ("large",)),  # one alias is as good as the other
        ("large", ["small", "tiny"], ()),  # who may use a fallback asks for it
        ("other", ["large"], ()),
        ("other", ["other"], ("other",)),
        ("other", [], ()),
    ],
)
def test_no_name_leads_to_a_model_that_a_limited_caller_may_not_use(
    asked: str, listed: list[str], models: tuple[str, ...]
) -> None:
    assert NAMES.chain_within(asked, listed) == models


WORDS = st.sampled_from("abcdefg")


@given(
    st.dictionaries(WORDS, WORDS, max_size=5),
    st.dictionaries(WORDS, st.lists(WORDS, min_size=1, max_size=3), max_size=3),
    st.lists(WORDS),
)
def test_whatever_the_settings_say_chains_hold_models_once_and_rights_are_not_widened(
    aliases: dict[str, str], fallbacks: dict[str, list[str]], listed: list[str]
) -> None:
    try:
        names = ModelNames(aliases, fallbacks)
    except SettingsError:
        return
    for name in "abcdefgh":
        chain = names.chain(name)
        assert chain[0] == names.model(name)
        assert len(set(chain)) == len(chain)
        assert not set(chain) & aliases.keys()
        within = names.chain_within(name, listed)
        assert set(within) <= set(chain) & {names.model(one) for one in listed}
        assert not within or within[0] == chain[0]
    assert all(names.chain_within(name, listed) for name in listed)


def test_a_thousand_aliases_in_a_row_are_followed_once() -> None:
    names = ModelNames({str(number): str(number + 1) for number in range(1000)})
    assert {names.model(str(number)) for number in range(1000)} == {"1000"}
