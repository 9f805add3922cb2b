"""What the API says of credit (contract.md section 8)."""

from __future__ import annotations

from typing import Any

from accounts.models import Organization
from billing.models import Account
from runflow.lib.money import money


def balance_body(organization: Organization, account: Account | None) -> dict[str, Any]:
    """The balance; all null but `org_id` for an organisation that never had an account."""
    return {
        "id": account and account.pk,
        "org_id": organization.pk,
        "balance": account and money(account.balance),
        "low_balance_threshold": account and money(account.low_balance_threshold),
        "created_at": account and account.created_at,
        "updated_at": account and account.updated_at,
    }
