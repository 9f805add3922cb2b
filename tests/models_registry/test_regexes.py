"""A declared regular expression and its JSON Schema pattern match the same texts."""

from __future__ import annotations

import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models_registry.regexes import END, whole_match


@pytest.mark.parametrize(
    ("regex", "pattern"),
    [
        ("#[0-9a-f]{6}", "#[0-9a-f]{6}"),
        ("a|bc", "a|bc"),
        ("(?:a|(b))+?c*", "(?:a|(b))+?c*"),
        ("a{,3}b{2,}", "a{0,3}b{2,}"),
        (r"\-\/\.\"", r'-\/\."'),
        (".", r"[^\n]"),
        ("^a$", rf"^a(?=\n?{END})"),
        ("[]a^-]", r"[\]a\^\-]"),
        ("[^]]", r"[^\]]"),
        (r"\x41\u00e9\t", r"\x41\u00e9\t"),
        (r"[\s]", r"[\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028-\u2029\u202f\u205f\u3000]"),
    ],
)
def test_what_both_dialects_have_is_written(regex: str, pattern: str) -> None:
    assert whole_match(regex) == f"^(?:{pattern}){END}"


@pytest.mark.parametrize(
    "regex",
    [
        *(
            r"\w",
            r"\bx",
            "(?i)a",
            "(?P<n>a)",
            r"(a)\1",
            "(?=a)a",
            "(?<!a)b",
            r"\Aa\Z",
            "a++",
            "(?>a)",
            "a{x}",
            "a]",
            "}",
        ),
        *(r"[\w]", r"[\D]", r"\ud83d\ude00", r"[\b]", "(?#note)a", "(?x) a", r"\101", "(a)?(?(1)b|c)"),
    ],
)
def test_what_would_mean_something_else_is_not(regex: str) -> None:
    re.compile(regex)
    assert whole_match(regex) is None


@pytest.mark.parametrize("name", ["d", "D", "s", "S"])
def test_digits_and_spaces_are_those_of_every_alphabet(name: str) -> None:
    every = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF)
    pattern = (whole_match(rf"\{name}") or "").removeprefix("^(?:").removesuffix(f"){END}")
    assert re.findall(pattern, every) == re.findall(rf"\{name}", every)


ALPHABET = "ab1-]^[\\.\n\r\u2028\u0660\u00e9\U0001d7ce "
atoms = st.sampled_from(
    [
        *"ab1",
        ".",
        "^",
        "$",
        r"\d",
        r"\D",
        r"\s",
        r"\S",
        r"\.",
        r"\-",
        r"\n",
        "[ab]",
        "[^a]",
        r"[\d-]",
        "[]^-]",
        r"[^\s1]",
        "é",
    ]
)
regexes = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=4).map("".join)
        | st.tuples(inner, inner).map("|".join)
        | st.builds("(?:{}){}".format, inner, st.sampled_from(["", "*", "+", "?", "{2}", "{,2}", "{1,}", "*?", "+?"]))
        | st.builds("({})".format, inner)
    ),
    max_leaves=8,
)


@given(regexes, st.lists(st.text(ALPHABET, max_size=6), min_size=1, max_size=10))
def test_both_match_the_same_texts(regex: str, texts: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        declared = re.compile(regex)
    pattern = whole_match(regex)
    assert pattern is not None
    for text in texts:
        assert (re.search(pattern, text) is not None) == (declared.fullmatch(text) is not None), (pattern, text)


@given(st.text(r"ab1.^$|?*+()[]{}\-,:dDsSwx4u0=!", max_size=12), st.lists(st.text("ab1\n.-", max_size=4), max_size=6))
def test_whatever_compiles_is_written_right_or_not_at_all(regex: str, texts: list[str]) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            declared = re.compile(regex)
    except (re.error, FutureWarning, OverflowError):
        return
    pattern = whole_match(regex)
    for text in texts if pattern is not None else ():
        assert (re.search(pattern, text) is not None) == (declared.fullmatch(text) is not None), (pattern, text)  # type: ignore[arg-type]
