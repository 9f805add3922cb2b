"""JMESPath over an answer: checked when it is declared, never failing when it is applied."""

from __future__ import annotations

from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions


class Expression:
    """A JMESPath expression. Raises ValueError, in words for an operator, when the text is none."""

    def __init__(self, text: str) -> None:
        try:
            self._compiled = jmespath.compile(text)
        except JMESPathError as fault:
            raise ValueError(" ".join(str(fault).split())) from None
        _check_functions(self._compiled.parsed)

    def search(self, view: Any) -> Any:
        """What the expression finds; None for nothing, and where it does not apply (the length of a null)."""
        try:
            return self._compiled.search(view)
        except (ValueError, TypeError, ArithmeticError):
            # JMESPathError is a ValueError; its functions let the others through.
            return None


def _check_functions(node: Any) -> None:
    """JMESPath itself looks functions up when it gets to them, which may be on a failure only."""
    if not isinstance(node, dict):
        return
    children = node["children"]
    if node["type"] == "function_expression":
        known = Functions.FUNCTION_TABLE.get(node["value"])
        if known is None:
            raise ValueError(f"there is no function {node['value']}()")
        wanted = known["signature"]
        is_variadic = bool(wanted) and wanted[-1].get("variadic", False)
        if len(children) < len(wanted) or (len(children) > len(wanted) and not is_variadic):
            raise ValueError(f"{node['value']}() takes {len(wanted)} arguments, not {len(children)}")
    for child in children:
        _check_functions(child)
