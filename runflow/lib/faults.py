"""The faults of a request as a 422 lists them: all of them, bounded, in words that can be sent (contract.md section 2)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from runflow.lib.errors import ErrorItem

# contract.md section 2: more errors than this help nobody and make an answer of megabytes.
MAX_ERRORS = 500
# A customer's megabyte of key must not come back in an answer.
MAX_ECHO = 100

NOT_STORABLE = "Must not contain U+0000 or a lone surrogate."


def shown(text: object, limit: int = MAX_ECHO) -> str:
    """A customer's text as an answer may hold it: bounded, and with U+0000 and lone surrogates escaped."""
    text = str(text)
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def is_storable(text: str) -> bool:
    """PostgreSQL's text and jsonb take neither U+0000 nor lone surrogates."""
    if "\0" in text:
        return False
    if text.isascii():  # a flag of the string: no cost
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class ErrorList(list[ErrorItem]):
    """The first MAX_ERRORS errors, and how many came after: one body can hold a million of them."""

    def __init__(self, errors: Iterable[ErrorItem] = ()) -> None:
        super().__init__()
        self.left_out = 0
        self.is_complete = True  # False: something was not looked at any further, so `left_out` is a lower bound
        for error in errors:
            self.add(error)

    def add(self, error: ErrorItem) -> None:
        if len(self) < MAX_ERRORS:
            self.append(error)
        else:
            self.left_out += 1


def cap_errors(*lists: Sequence[ErrorItem]) -> list[ErrorItem]:
    """Join lists of errors into one of at most MAX_ERRORS; the last says how many were left out.

    The rule is from contract.md section 2.

    Give it the lists as they are (`cap_errors(own, errors)`): what an ErrorList has left out itself is
    counted too.
    """
    errors = [error for part in lists for error in part]
    left_out = sum(part.left_out for part in lists if isinstance(part, ErrorList))
    is_complete = all(part.is_complete for part in lists if isinstance(part, ErrorList))
    if len(errors) <= MAX_ERRORS and not left_out:
        return errors
    kept = errors[: MAX_ERRORS - 1]
    left_out += len(errors) - len(kept)
    msg = f"{left_out} more errors are left out." if is_complete else f"At least {left_out} more errors are left out."
    return [*kept, {"loc": ["body"], "msg": msg, "type": "too_many_errors"}]


def body_fault(error_type: str, msg: str, *path: str) -> ErrorItem:
    return {"loc": ["body", *path], "msg": msg, "type": error_type}


def unknown_members(body: Mapping[str, Any], *, known: Collection[str]) -> ErrorList:
    """A fault for each member that the contract does not name. Beyond MAX_ERRORS they are counted, not made."""
    unknown = [name for name in body if name not in known]
    faults = ErrorList(
        body_fault("unknown_input", "There is no such member.", shown(name)) for name in unknown[:MAX_ERRORS]
    )
    faults.left_out = max(0, len(unknown) - MAX_ERRORS)
    return faults
