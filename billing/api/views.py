"""The balance, for any key of the organisation."""

from __future__ import annotations

from collections.abc import Sequence

from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.authentication import caller_of
from accounts.api.permissions import HasKey
from billing.api import schema
from billing.api.serializers import balance_body
from billing.models import Account
from runflow.lib.views import ApiView


class BalanceView(ApiView):
    """`GET /v1/billing/balance`"""

    permission_classes: Sequence[type] = [HasKey]
    documented = {"GET": schema.GET_BALANCE}

    def get(self, request: Request) -> Response:
        organization = caller_of(request).organization
        return Response(balance_body(organization, Account.objects.filter(organization=organization).first()))
