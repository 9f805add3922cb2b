"""`GET /v1/billing/balance`."""

from __future__ import annotations

from decimal import Decimal

import pytest

from billing.models import Account
from tests.conftest import Api
from tests.contract.checks import assert_matches, json_of
from tests.factories import make_prepaid

pytestmark = pytest.mark.django_db


def test_a_balance_is_shown_to_any_key_of_the_organization() -> None:
    api = Api(make_prepaid("12.5"), scopes=[])
    Account.objects.update(low_balance_threshold=Decimal("5"))
    account = Account.objects.get()
    answer = api.get("/v1/billing/balance")
    assert answer.status_code == 200
    body = json_of(answer)
    assert body == {
        "id": str(account.pk),
        "org_id": str(api.organization.pk),
        "balance": "12.50",
        "low_balance_threshold": "5.00",
        "created_at": account.created_at.isoformat(),
        "updated_at": account.updated_at.isoformat(),
    }
    assert_matches("CreditBalance", body)


def test_without_an_account_all_is_null(api: Api) -> None:
    body = json_of(api.get("/v1/billing/balance"))
    assert body == {
        "id": None,
        "org_id": str(api.organization.pk),
        "balance": None,
        "low_balance_threshold": None,
        "created_at": None,
        "updated_at": None,
    }
    assert_matches("CreditBalance", body)


def test_another_organization_s_balance_is_not_shown(api: Api) -> None:
    make_prepaid("1")
    assert json_of(api.get("/v1/billing/balance"))["balance"] is None
