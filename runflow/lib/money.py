"""Amounts of money as answers show them (contract.md section 1)."""

from __future__ import annotations

from decimal import Decimal
from typing import overload


@overload
def money(amount: Decimal) -> str: ...
@overload
def money(amount: None) -> None: ...
@overload
def money(amount: Decimal | None) -> str | None: ...
def money(amount: Decimal | None) -> str | None:
    """USD as a decimal string without needless zeros, but at least two places: 0.55, 12.00, 0.000125."""
    if amount is None:
        return None
    places = max(2, -int(amount.normalize().as_tuple().exponent))
    return f"{amount:.{places}f}"
