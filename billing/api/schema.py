"""What is told of credit, and how to ask (see runflow.lib.schemas)."""

from __future__ import annotations

from accounts.api.schema import TAG
from runflow.lib.schemas import MONEY, TIMESTAMP, UUID, Answer, Operation, nullable, record, said

BALANCE = record(
    "CreditBalance",
    {
        "id": nullable(UUID),
        "org_id": UUID,
        "balance": said(nullable(MONEY), "USD. Without what is held for what has not ended."),
        "low_balance_threshold": nullable(MONEY),
        "created_at": nullable(TIMESTAMP),
        "updated_at": nullable(TIMESTAMP),
    },
    example={
        "id": "01a20d3c-7a10-7f3e-9a55-4f7c1f3f0c11",
        "org_id": "01a20c33-2f4e-732e-8fd3-607b145845a0",
        "balance": "48.90",
        "low_balance_threshold": "10.00",
        "created_at": "2026-11-24T06:10:02.110240+00:00",
        "updated_at": "2026-11-24T06:16:51.155072+00:00",
    },
    description="All but `org_id` are null for an organisation that was never granted credit.",
)
GET_BALANCE = Operation(
    id="getBalance",
    tag=TAG,
    summary="Read the balance",
    description="What the organisation has left to spend. It limits only who is on prepaid credit.",
    answers={200: Answer(BALANCE, "The balance.")},
)
