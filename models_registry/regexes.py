"""Declared regular expressions as JSON Schema has them.

A declared one is Python's and matches the whole text. JSON Schema's are ECMA-262's and match anywhere in it; some of its
readers take Python's. What is written here means the same to all of them, or it is not written.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

# Not "$": Python's also matches before a newline at the end.
END = r"(?![\s\S])"
_PYTHON_END = rf"(?=\n?{END})"
# Of text outside a class, one alternative for each kind of token; what matches none has no common meaning.
_TOKEN = re.compile(
    r"""
    (?P<literal>[^\\^$.|?*+()\[\]{}])
  | \\(?P<escape>x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[^\w\s]|[nrtfvdDsS])
  | (?P<repeat>(?:[*+?]|\{(?P<low>\d*)(?P<comma>,?)(?P<high>\d*)\})\??)
  | (?P<open>\((?:\?:|(?!\?)))
  | (?P<same>[|)^])
  | (?P<any>\.)
  | (?P<end>\$)
  | (?P<class>\[)
    """,
    re.VERBOSE | re.ASCII,
)
_CLASS_ATOM = re.compile(
    r"(?P<literal>[^\\])|\\(?P<escape>x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[^\w\s]|[nrtfvds])", re.ASCII
)
# ECMA-262's SyntaxCharacter and "/", which may stand behind a backslash there.
_SYNTAX = frozenset("^$\\.*+?()[]{}|/")
_CLASS_SYNTAX = frozenset("\\]^-[")


def whole_match(regex: str) -> str | None:
    """A pattern for JSON Schema that finds exactly the texts that the regex matches as a whole; None if there is no such.

    `regex` must compile. There is none for `\\w` and `\\b` (Python's know every alphabet), flags, lookarounds, references, and
    what only one of both dialects has.
    """
    parts: list[str] = []
    at, is_repeat = 0, False
    while at < len(regex):
        token = _TOKEN.match(regex, at)
        if token is None or (is_repeat and token["repeat"]):
            return None  # a repeat of a repeat is Python's possessive one
        at, is_repeat = token.end(), bool(token["repeat"])
        part: str | None
        if token["class"]:
            part, at = _class(regex, at)
        elif token["escape"]:
            part = _escape(token["escape"])
        elif token["repeat"]:
            part = _repeat(token)
        elif token["any"]:
            part = r"[^\n]"
        elif token["end"]:
            part = _PYTHON_END
        else:
            part = token[0]
        if part is None:
            return None
        parts.append(part)
    return f"^(?:{''.join(parts)}){END}"


def _escape(name: str) -> str | None:
    """What stands for an escape outside a class. `name` is what follows the backslash."""
    if name in _SETS:
        return f"[{'^' if name.isupper() else ''}{_ranges(_SETS[name])}]"
    if len(name) > 1 or name.isalpha():
        return None if _is_surrogate(name) else f"\\{name}"
    return f"\\{name}" if name in _SYNTAX else name


def _repeat(token: re.Match[str]) -> str | None:
    if token[0][0] != "{":
        return token[0]
    if not token["low"]:
        # "{,3}" is up to three in Python; "{}" and "{,}" are literal there, or not, by version.
        return "{0," + token[0][2:] if token["comma"] and token["high"] else None
    return token[0]


def _class(regex: str, at: int) -> tuple[str | None, int]:
    """A character class from behind its "[". Returns what stands for it, and where the text goes on."""
    parts = ["["]
    if regex[at] == "^":
        parts.append("^")
        at += 1
    is_first = True
    while is_first or regex[at] != "]":
        is_first = False
        atom, at = _class_atom(regex, at)
        if atom is None:
            return None, at
        parts.append(atom)
        if regex[at] == "-" and regex[at + 1] != "]":
            last, at = _class_atom(regex, at + 1)
            if last is None:
                return None, at
            parts.append(f"-{last}")
    return "".join(parts) + "]", at + 1


def _class_atom(regex: str, at: int) -> tuple[str | None, int]:
    atom = _CLASS_ATOM.match(regex, at)
    if atom is None:
        return None, at
    name = atom["escape"]
    if name is None:
        shown = atom["literal"]
        return f"\\{shown}" if shown in _CLASS_SYNTAX else shown, atom.end()
    if name in _SETS:
        return _ranges(_SETS[name]), atom.end()
    if len(name) > 1 or name.isalpha():
        return None if _is_surrogate(name) else f"\\{name}", atom.end()
    return f"\\{name}" if name in _CLASS_SYNTAX else name, atom.end()


def _is_surrogate(name: str) -> bool:
    """Two of them are one character to ECMA-262, and two to Python."""
    return name[0] == "u" and 0xD800 <= int(name[1:], 16) <= 0xDFFF


# What these match in Python, which is more than in ECMA-262: digits and spaces of every alphabet.
_SETS: dict[str, Callable[[str], bool]] = {
    "d": str.isdecimal,
    "D": str.isdecimal,
    "s": str.isspace,
    "S": str.isspace,
}


@lru_cache
def _ranges(belongs: Callable[[str], bool]) -> str:
    """The characters for which this is true, as the inside of a class."""
    parts, first = [], None
    for code in range(0x110001):
        is_in = code < 0x110000 and belongs(chr(code))
        if is_in and first is None:
            first = code
        elif not is_in and first is not None:
            parts.append(_character(first) if first == code - 1 else f"{_character(first)}-{_character(code - 1)}")
            first = None
    return "".join(parts)


def _character(code: int) -> str:
    if chr(code).isascii() and chr(code).isalnum():
        return chr(code)
    # Beyond 16 bits the two dialects have no escape in common.
    return f"\\u{code:04x}" if code < 0x10000 else chr(code)
