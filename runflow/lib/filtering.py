"""The filter language of lists: `q` of contract.md section 6, from text to a tree of checked conditions.

    status_code:succeeded AND created_at>2026-04-01
    client_ref.EQ:'sku-1' OR NOT (metadata.order:1001)

What becomes of the tree is `lists`' affair: nothing here knows columns or SQL.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any, NoReturn
from uuid import UUID

import lark

from runflow.lib import errors
from runflow.lib.faults import is_storable, shown
from runflow.lib.views import parse_uuid

# A filter is typed by people or put together by programs from a few conditions. Longer, it is a mistake or an attack.
MAX_LENGTH = 1000
MAX_CONDITIONS = 20
MAX_DEPTH = 10
MAX_VALUES = 50  # of one IN

EQ, NE, IN, GT, GTE, LT, LTE = "EQ", "NE", "IN", "GT", "GTE", "LT", "LTE"
EQUALITY = (EQ, NE, IN)
COMPARISON = (EQ, NE, IN, GT, GTE, LT, LTE)
OPERATORS = frozenset(COMPARISON)
_SIGNS = {":": EQ, "=": EQ, ">": GT, ">=": GTE, "<": LT, "<=": LTE}
_OPPOSITE = {GT: LTE, LTE: GT, LT: GTE, GTE: LT}

# AND binds closer than OR. Names, keys and values that hold other characters are quoted; a backslash keeps a quote in them.
_GRAMMAR = r"""
    ?start: any
    ?any: all (_OR all)*
    ?all: term (_AND term)*
    ?term: condition | negation | _OPEN any _CLOSE
    negation: NOT term
    condition: path SIGN value | path SIGN list
    path: NAME (_DOT (NAME | QUOTED))*
    list: _OPEN value (_COMMA value)* _CLOSE
    value: QUOTED | BARE

    NOT.1: /NOT(?![\w.-])/
    _AND: /AND(?![\w.-])/
    _OR: /OR(?![\w.-])/
    NAME: /[\w-]+/
    QUOTED: /'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"/s
    BARE: /[^\s()'",]+/
    SIGN: /[<>]=?|[:=]/
    _DOT: "."
    _COMMA: ","
    _OPEN: "("
    _CLOSE: ")"
    %ignore /\s+/
"""
# LALR: no backtracking and no recursion, so neither time nor stack grows with what somebody nests.
_PARSER = lark.Lark(_GRAMMAR, parser="lalr", propagate_positions=True, maybe_placeholders=False)
_TERMINALS = {
    "NOT": "NOT",
    "_AND": "AND",
    "_OR": "OR",
    "NAME": "a member",
    "QUOTED": "a quoted text",
    "BARE": "a value",
    "SIGN": "one of : = > >= < <=",
    "_DOT": "a dot",
    "_COMMA": "a comma",
    "_OPEN": "(",
    "_CLOSE": ")",
    "$END": "the end",
}


@dataclass(frozen=True, slots=True)
class Literal:
    """A value as it was written. `at`: the index of its first character in `q`."""

    text: str
    at: int
    is_quoted: bool


class NotAValue(ValueError):
    """Its text says what is expected instead."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of members: how a value of it is read, and what it may be compared by.

    `parse` raises NotAValue. `has_keys`: a condition names a key of the member's object.
    """

    name: str
    parse: Callable[[Literal], Any]
    operators: tuple[str, ...] = EQUALITY
    has_keys: bool = False
    codes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Condition:
    """`value`: as the kind's `parse` gave it, a tuple of them for IN. Never NE: that is a negated EQ."""

    member: str
    operator: str
    value: Any
    key: str | None = None
    is_negated: bool = False
    at: int = 0

    @property
    def has_opposite(self) -> bool:
        return self.operator in _OPPOSITE

    def one_by_one(self) -> list[Condition]:
        """An IN as a condition for each of its values."""
        if self.operator != IN:
            return [self]
        return [replace(self, operator=EQ, value=value) for value in dict.fromkeys(self.value)]

    def opposite(self) -> Condition:
        """The comparison that holds where a negated one does, of a member that is never null."""
        return replace(self, operator=_OPPOSITE[self.operator], is_negated=False)


@dataclass(frozen=True, slots=True)
class All:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Either:
    parts: tuple[Node, ...]


Node = Condition | All | Either


def conditions(node: Node) -> Iterator[Condition]:
    if isinstance(node, Condition):
        yield node
    else:
        for part in node.parts:
            yield from conditions(part)


def parse(text: str, kinds: Mapping[str, Kind]) -> Node:
    """The tree of a filter over these members. NOT stands at conditions only: brackets that were negated are turned over.

    Raises BadRequest; `errors[0].loc` is `["query", "q", index]`, index that of the character which is wrong, from 0.
    """
    if len(text) > MAX_LENGTH:
        _refuse("too_long", f"Give at most {MAX_LENGTH} characters.", MAX_LENGTH)
    try:
        tree = _PARSER.parse(text)
    except lark.UnexpectedCharacters as exc:
        at = exc.pos_in_stream or 0
        _refuse("bad_syntax", _expected(exc.allowed, text[at:]), at)
    except lark.UnexpectedToken as exc:
        at = len(text) if exc.token.type == "$END" else exc.token.start_pos or 0
        _refuse("bad_syntax", _expected(exc.accepts or exc.expected, text[at:]), at)
    return _Reader(kinds).node(tree, is_negated=False, depth=0)


def _expected(terminals: set[str] | None, rest: str) -> str:
    names = sorted(_TERMINALS[each] for each in terminals or () if each in _TERMINALS)
    found = f"“{shown(rest, 20)}”" if rest else "the end"
    return f"Expected {' or '.join(names)}, not {found}."


def _refuse(error_type: str, msg: str, at: int) -> NoReturn:
    raise bad_filter(error_type, msg, at)


def bad_filter(error_type: str, msg: str, at: int) -> errors.BadRequest:
    """A refusal of `q` because of what stands at this index."""
    return errors.BadRequest(
        f"q, character {at + 1}: {msg}", errors=[{"loc": ["query", "q", at], "msg": msg, "type": error_type}]
    )


class _Reader:
    """Turns lark's tree into ours, checking every name, operator and value on the way."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self.kinds = kinds
        self.count = 0

    def node(self, tree: lark.Tree[lark.Token], *, is_negated: bool, depth: int) -> Node:
        if depth > MAX_DEPTH:
            _refuse("too_deep", f"Nest at most {MAX_DEPTH} levels.", tree.meta.start_pos)
        if tree.data == "negation":
            return self.node(_subtree(tree.children[1]), is_negated=not is_negated, depth=depth + 1)
        if tree.data == "condition":
            return self.condition(tree, is_negated=is_negated)
        parts = tuple(self.node(_subtree(child), is_negated=is_negated, depth=depth + 1) for child in tree.children)
        return All(parts) if (tree.data == "all") != is_negated else Either(parts)

    def condition(self, tree: lark.Tree[lark.Token], *, is_negated: bool) -> Condition:
        self.count += 1
        at = tree.meta.start_pos
        if self.count > MAX_CONDITIONS:
            _refuse("too_long", f"Give at most {MAX_CONDITIONS} conditions.", at)
        path, sign, given = tree.children
        member, key, operator = self._path(_subtree(path), str(sign))
        kind = self.kinds[member]
        if operator not in kind.operators:
            msg = f"{member} is compared by {', '.join(kind.operators)}."
            _refuse("not_allowed", msg, at)
        given = _subtree(given)
        if (given.data == "list") != (operator == IN):
            msg = "IN takes a list, as in status_code.IN:(failed,canceled); everything else takes one value."
            _refuse("bad_value", msg, given.meta.start_pos)
        value: Any
        if operator == IN:
            if len(given.children) > MAX_VALUES:
                _refuse("too_long", f"Give at most {MAX_VALUES} values.", given.meta.start_pos)
            value = tuple(_value(kind, _literal(_subtree(child))) for child in given.children)
        else:
            value = _value(kind, _literal(given))
        if operator == NE:
            operator, is_negated = EQ, not is_negated
        return Condition(member, operator, value, key, is_negated, at)

    def _path(self, path: lark.Tree[lark.Token], sign: str) -> tuple[str, str | None, str]:
        """Member, key, operator."""
        first, *rest = (_token(child) for child in path.children)
        member = str(first)
        if member not in self.kinds:
            msg = f"There is no “{shown(member)}” to filter by; there are {', '.join(sorted(self.kinds))}."
            _refuse("unknown_member", msg, first.start_pos or 0)
        key = None
        if self.kinds[member].has_keys:
            if not rest:
                _refuse("bad_syntax", f"Name a key: {member}.key:value.", first.end_pos or 0)
            key = _text(rest.pop(0))
            if not is_storable(key):
                _refuse("bad_value", "Must not contain U+0000 or a lone surrogate.", first.end_pos or 0)
        operator = _SIGNS[sign]
        if rest:
            named = rest.pop(0)
            if named.type == "QUOTED" or named.upper() not in OPERATORS:
                msg = f"There is no operator “{shown(str(named))}”; there are {', '.join(COMPARISON)}."
                _refuse("unknown_operator", msg, named.start_pos or 0)
            if operator != EQ:
                _refuse("bad_syntax", "After a named operator comes a colon.", named.end_pos or 0)
            operator = named.upper()
        if rest:
            _refuse("bad_syntax", "Nothing comes after an operator but a colon.", rest[0].start_pos or 0)
        return member, key, operator


def _subtree(child: lark.Tree[lark.Token] | lark.Token) -> lark.Tree[lark.Token]:
    assert isinstance(child, lark.Tree)  # noqa: S101 the grammar says so
    return child


def _token(child: lark.Tree[lark.Token] | lark.Token) -> lark.Token:
    assert isinstance(child, lark.Token)  # noqa: S101 the grammar says so
    return child


def _text(token: lark.Token) -> str:
    return re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL) if token.type == "QUOTED" else str(token)


def _literal(tree: lark.Tree[lark.Token]) -> Literal:
    token = _token(tree.children[0])
    return Literal(_text(token), token.start_pos or 0, token.type == "QUOTED")


def _value(kind: Kind, literal: Literal) -> Any:
    try:
        return kind.parse(literal)
    except NotAValue as exc:
        _refuse("bad_value", str(exc), literal.at)


# --- Kinds ------------------------------------------------------------------------------------------------------------


def _parse_text(literal: Literal) -> str:
    if not is_storable(literal.text):
        raise NotAValue("Must not contain U+0000 or a lone surrogate.")
    return literal.text


def _parse_id(literal: Literal) -> UUID:
    parsed = parse_uuid(literal.text)
    if parsed is None:
        raise NotAValue("Must be a UUID.")
    return parsed


_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+ -]\d\d:\d\d)?", re.ASCII)


def _parse_time(literal: Literal) -> datetime:
    """A date is its first moment; without an offset it is UTC. A + that a URL made a space is one again."""
    text = literal.text
    try:
        if _DATE.fullmatch(text) and text.isascii():
            day = date.fromisoformat(text)
            return datetime(day.year, day.month, day.day, tzinfo=UTC)
        if _TIME.fullmatch(text):
            parsed = datetime.fromisoformat(re.sub(r" (\d\d:\d\d)$", r"+\1", text) if len(text) > 16 else text)
            return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise NotAValue("Must be a date or a time in ISO 8601, such as 2026-04-01 or 2026-04-01T12:00:00+00:00.")


_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?")
_WORDS = {"true": True, "false": False, "null": None}


def _parse_json_scalar(literal: Literal) -> str | int | float | bool | None:
    """As in JSON: 1001 is a number and true a boolean, '1001' and 'true' are texts. Other bare words are texts too."""
    text = literal.text
    if not literal.is_quoted:
        if text in _WORDS:
            return _WORDS[text]
        if _NUMBER.fullmatch(text):
            number = float(text) if any(character in text for character in ".eE") else int(text)
            if math.isinf(number):
                raise NotAValue("Must be a number that JSON can hold.")
            return number
    return _parse_text(literal)


def _parse_boolean(literal: Literal) -> bool:
    if literal.text not in ("true", "false"):
        raise NotAValue("Must be true or false.")
    return literal.text == "true"


TEXT = Kind("text", _parse_text)
BOOLEAN = Kind("boolean", _parse_boolean, (EQ, NE))
ID = Kind("id", _parse_id)
TIME = Kind("time", _parse_time, COMPARISON)
JSON = Kind("JSON value", _parse_json_scalar, EQUALITY, has_keys=True)


def code(values: tuple[str, ...]) -> Kind:
    """One of a few words."""

    def parse_code(literal: Literal) -> str:
        if literal.text not in values:
            raise NotAValue(f"Must be one of {', '.join(values)}.")
        return literal.text

    return Kind("code", parse_code, codes=values)
