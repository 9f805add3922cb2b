"""Filters made up by hypothesis: as trees, as somebody may write them, and as Python would answer them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st


@dataclass(frozen=True)
class Term:
    """One condition. `value`: as Python has it, a tuple of them for IN. `spellings`: of each value, as `q` may have it."""

    member: str
    operator: str
    value: Any
    spellings: tuple[tuple[str, ...], ...]
    key: str | None = None


@dataclass(frozen=True)
class Group:
    word: str  # AND, OR, NOT
    parts: tuple[Filter, ...]


Filter = Term | Group
SIGNS = {"EQ": (":", "="), "GT": (">",), "GTE": (">=",), "LT": ("<",), "LTE": ("<=",)}


def quoted(text: str) -> tuple[str, ...]:
    return tuple(
        mark + text.replace("\\", "\\\\").replace(mark, f"\\{mark}") + mark  # what else stands in it is as it is
        for mark in ("'", '"')
    )


def text_spellings(text: str) -> tuple[str, ...]:
    bare = (text,) if text and not set(text) & set(" \t\n\r()'\",") and text.isprintable() else ()
    return (*quoted(text), *bare)


def filters(terms: st.SearchStrategy[Term], *, most: int = 6) -> st.SearchStrategy[Filter]:
    def groups(inner: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
        words, parts = st.sampled_from(["AND", "OR"]), st.lists(inner, min_size=2, max_size=3)
        joined = st.builds(lambda word, parts: Group(word, tuple(parts)), words, parts)
        return joined | inner.map(lambda part: Group("NOT", (part,)))

    return st.recursive(terms, groups, max_leaves=most)


@st.composite
def written(draw: st.DrawFn, given: Filter, *, within: str = "") -> str:
    """One of the ways to write a filter down."""
    space = st.sampled_from([" ", "  ", "\n"])
    if isinstance(given, Term):
        return draw(_written_term(given))
    if given.word == "NOT":
        text = f"NOT{draw(space)}{draw(written(given.parts[0], within='NOT'))}"
    else:
        text = f"{draw(space)}{given.word}{draw(space)}".join(
            draw(written(part, within=given.word)) for part in given.parts
        )
    # Needed where what is outside binds closer, allowed everywhere.
    needed = within == "NOT" or (within == "AND" and given.word == "OR")
    return f"({text})" if needed or draw(st.booleans()) else text


@st.composite
def _written_term(draw: st.DrawFn, term: Term) -> str:
    path = term.member
    if term.key is not None:
        names = [*quoted(term.key)]
        if term.key and all(character.isalnum() or character in "_-" for character in term.key):
            names.append(term.key)
        path += "." + draw(st.sampled_from(names))
    values = [draw(st.sampled_from(each)) for each in term.spellings]
    if term.operator in SIGNS and draw(st.booleans()):
        return path + draw(st.sampled_from(SIGNS[term.operator])) + values[0]
    name = draw(st.sampled_from([term.operator, term.operator.lower()]))
    return f"{path}.{name}:" + (f"({','.join(values)})" if term.operator == "IN" else values[0])


def meets(given: Filter, row: Mapping[str, Any]) -> bool:
    """Whether a row is meant. `row`: by member; of those with keys a dictionary or None; of a set, any of its values."""
    if isinstance(given, Group):
        answers = [meets(part, row) for part in given.parts]
        return not answers[0] if given.word == "NOT" else all(answers) if given.word == "AND" else any(answers)
    if given.operator == "NE":
        return not _equals(given, row, given.value)
    if given.operator == "EQ":
        return _equals(given, row, given.value)
    if given.operator == "IN":
        return any(_equals(given, row, value) for value in given.value)
    actual = row[given.member]
    if actual is None:
        return False
    answer: bool = {
        "GT": actual > given.value,
        "GTE": actual >= given.value,
        "LT": actual < given.value,
        "LTE": actual <= given.value,
    }[given.operator]
    return answer


def _equals(term: Term, row: Mapping[str, Any], value: Any) -> bool:
    actual = row[term.member]
    if isinstance(actual, set):
        return value in actual
    if term.key is None:
        return actual is not None and bool(actual == value)
    if actual is None or term.key not in actual:
        return False
    found = actual[term.key]
    # 1 is 1.0 in JSON, and true is not 1.
    return bool(found == value) and isinstance(found, bool) == isinstance(value, bool)


def term(
    member: str,
    values: Sequence[tuple[Any, tuple[str, ...]]],
    operators: Sequence[str],
    keys: Sequence[str | None] = (None,),
) -> st.SearchStrategy[Term]:
    """Conditions on a member. `values`: each with its spellings."""
    chosen = st.sampled_from(list(values))
    names = st.sampled_from(list(keys))
    single = st.builds(
        lambda operator, value, key: Term(member, operator, value[0], (value[1],), key),
        st.sampled_from([each for each in operators if each != "IN"]),
        chosen,
        names,
    )
    if "IN" not in operators:
        return single
    several = st.builds(
        lambda given, key: Term(
            member, "IN", tuple(value for value, _ in given), tuple(spellings for _, spellings in given), key
        ),
        st.lists(chosen, min_size=1, max_size=3),
        names,
    )
    return single | several
