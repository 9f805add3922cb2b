"""Whatever is sent: no 5xx, every error in the envelope, nothing left behind by a refusal."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batches.models import Batch, BatchItem, Run
from tests.conftest import Api, Rung
from tests.contract.checks import assert_error, assert_matches, json_of
from tests.factories import make_batch, make_model

pytestmark = pytest.mark.django_db
# The fixtures are shared by all examples on purpose: every assertion is about what one request changed.
SHARED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=150
)
INPUTS: list[dict[str, Any]] = [
    {"name": "text", "variable_type_code": "string"},
    {"name": "count", "variable_type_code": "integer"},
    {"name": "ratio", "variable_type_code": "number", "validator_code": "range", "validator_attrs": {"step": 0.1}},
    {"name": "flag", "variable_type_code": "boolean"},
    {"name": "image", "variable_type_code": "image"},
    {"name": "list", "variable_type_code": "array"},
    {"name": "urls", "variable_type_code": "array", "validator_code": "items", "validator_attrs": {"type": "file"}},
    {"name": "data", "variable_type_code": "json"},
]
# With lone surrogates and U+0000, which PostgreSQL takes neither of.
texts = st.text(st.characters(), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**400])
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)
urls = st.sampled_from(
    [
        "https://shop.example/hook",
        "data:text/plain,x",
        "data:image/png;base64,AAAA",
        "runflow://assets/01890a5d-ac96-774b-bcce-b302099a8057",
    ]
) | st.builds("{}://{}".format, st.sampled_from(["http", "HTTPS", "data", "runflow", ""]), texts)
items = st.dictionaries(
    st.sampled_from([*(each["name"] for each in INPUTS), "client_ref", "other"]) | texts, values | urls, max_size=6
)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "input": st.lists(items | values, max_size=5) | values,
        "metadata": st.dictionaries(texts, values, max_size=4) | values,
        "callback_url": urls | values,
        "more": values,
    },
)
# What every model of these INPUTS takes.
good_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
small = st.integers(-(2**63), 2**63 - 1)
good_values = st.recursive(
    st.none() | st.booleans() | small | st.floats(-(2.0**62), 2.0**62) | good_texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(good_texts, inner, max_size=4),
    max_leaves=12,
)
good_urls = st.sampled_from(
    ["https://shop.example/hook?a=%20", "http://8.8.8.8:81/", "https://xn--bcher-kva.example/ü", "HTTPS://SHOP.EXAMPLE"]
)
good_items = st.fixed_dictionaries(
    {},
    optional={
        "client_ref": st.none() | good_texts,
        "text": st.none() | good_texts,
        "count": st.none() | small | small.map(lambda number: float(number % 2**53)),
        "ratio": st.none() | st.integers(-(10**15), 10**15).map(lambda number: number / 10),
        "flag": st.none() | st.booleans(),
        "image": st.none() | good_urls | st.just("data:image/png;base64,AAAA"),
        "list": st.none() | st.lists(good_values, max_size=4),
        "urls": st.none() | st.lists(good_urls, max_size=4),
        "data": good_values,
    },
)
good_bodies = st.fixed_dictionaries(
    {"input": st.lists(good_items, min_size=1, max_size=5)},
    optional={
        "metadata": st.none() | st.dictionaries(good_texts, good_values, max_size=4),
        "callback_url": st.none() | good_urls,
    },
)


def mostly(usual: str, others: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.integers(0, 9).flatmap(lambda number: others if number == 9 else st.just(usual))


# As a WSGI server hands them over: latin-1, without control characters.
header_values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=40)
headers = st.dictionaries(
    st.sampled_from(["Idempotency-Key", "X-Request-Id", "X-Organization-Id", "Accept", "Accept-Language", "Cookie"]),
    header_values,
    max_size=3,
)
CODES = {
    400: ["BAD_REQUEST"],
    401: ["UNAUTHORIZED"],
    403: ["ORGANIZATION_MEMBERSHIP_REQUIRED"],
    404: ["NOT_FOUND", "MODEL_NOT_FOUND", "BATCH_NOT_FOUND", "BATCH_ITEM_NOT_FOUND", "RUN_NOT_FOUND"],
    409: ["CONFLICT"],
    413: ["PAYLOAD_TOO_LARGE"],
    415: ["UNSUPPORTED_MEDIA_TYPE"],
    422: ["VALIDATION_ERROR"],
}


def assert_in_contract(response: Any, success: int, schema: str) -> None:
    if response.status_code == success:
        assert_matches(schema, json_of(response))
        return
    assert response.status_code in CODES, response.content
    code = response.json()["code"]
    assert code in CODES[response.status_code]
    assert_error(response, response.status_code, code)


def exactly(value: Any) -> Any:
    """A JSON value with its numbers as they are written: 8e16 and 80000000000000000 are one, true and 1 are not."""
    match value:
        case bool():
            return str(value)
        case int() | float():
            return Decimal(repr(value))
        case list():
            return [exactly(inner) for inner in value]
        case dict():
            return {key: exactly(inner) for key, inner in value.items()}
    return [value]


def counts() -> tuple[int, int, int]:
    return Batch.objects.count(), Run.objects.count(), BatchItem.objects.count()


@SHARED
@given(
    body=bodies.map(lambda body: json.dumps(body).encode()) | values.map(lambda v: json.dumps(v).encode()) | st.binary()
)
@example(body=b'{"input": [{"text": "\xed\xa0\x80"}]}')
@example(body='{"input": [{"text": "a"}]}'.encode("utf-16"))
@example(body=b'{"input": [{"data": ' + b"[" * 900 + b"]" * 900 + b"}]}")
@example(body=b'{"input": [' + b"[" * 900 + b"]" * 900 + b"]}")
@example(body=b'{"metadata": ' + b'{"a":' * 400 + b"1" + b"}" * 400 + b"}")
def test_whatever_body_is_posted_is_answered_in_the_contracts_words(api: Api, rung: Rung, body: bytes) -> None:
    model = make_model(inputs=INPUTS)
    before = counts()
    response = api.post(f"/v1/models/{model}/batches", body)
    assert response.status_code in (201, 400, 422), response.content
    assert_in_contract(response, 201, "BatchCreateResponse")
    assert counts()[0] == before[0] + (response.status_code == 201)


@SHARED
@given(body=good_bodies)
def test_what_is_taken_is_stored_and_given_back_as_it_came(api: Api, rung: Rung, body: dict[str, Any]) -> None:
    model = make_model(inputs=INPUTS)
    before = counts()
    response = api.post(f"/v1/models/{model}/batches", body)
    assert response.status_code == 201, response.content
    assert_matches("BatchCreateResponse", json_of(response))
    total = len(body["input"])
    assert counts() == (before[0] + 1, before[1] + total, before[2] + total)
    detail = json_of(api.get(f"/v1/batches/{response.json()['id']}?embed=input"))
    assert_matches("BatchDetail", detail)
    assert detail["callback_url"] == body.get("callback_url")
    assert exactly(detail["metadata"]) == exactly(body.get("metadata"))
    # Null is "not given".
    given_items = [{key: value for key, value in item.items() if value is not None} for item in body["input"]]
    assert exactly(detail["input"]) == exactly(given_items)
    assert_matches("BatchItemPage", json_of(api.get(f"/v1/batches/{detail['id']}/items")))


@SHARED
@given(
    sent=headers,
    content_type=mostly("application/json", header_values),
    query=header_values,
    authorization=mostly("", header_values),
)
def test_whatever_headers_are_sent_are_answered_in_the_contracts_words(
    api: Api, rung: Rung, sent: dict[str, str], content_type: str, query: str, authorization: str
) -> None:
    if "charset" in content_type.lower():
        content_type = "application/json"  # see tests/runflow/test_envelope.py
    model = make_model()
    before = counts()
    response = api.client.generic(
        "POST",
        f"/v1/models/{model}/batches?{quote(query, safe='=&')}",
        b'{"input": [{}]}',
        content_type=content_type,
        headers={**api.headers(), **sent, **({"Authorization": authorization} if authorization else {})},
    )
    assert_in_contract(response, 201, "BatchCreateResponse")
    created = response.status_code == 201
    assert counts() == tuple(number + created for number in before)


@SHARED
@given(
    ids=st.lists(texts.filter(lambda text: text not in ("", ".", "..")), min_size=2, max_size=2),
    query=st.dictionaries(st.sampled_from(["limit", "pq", "from_prev", "embed", "q", "fields", "sort_by"]), texts),
    use_own=st.booleans(),
)
def test_whatever_is_asked_for_is_answered_in_the_contracts_words(
    api: Api, ids: list[str], query: dict[str, str], use_own: bool
) -> None:
    one, two = (quote(text.encode("utf-8", "surrogatepass"), safe="") for text in ids)
    if use_own:
        batch, (handle,) = make_batch(organization=api.organization)
        one, two = str(batch.pk), str(handle.id)
    text = "&".join(f"{key}={quote(value.encode('utf-8', 'surrogatepass'))}" for key, value in query.items())
    for path, schema in (
        (f"/v1/batches/{one}", "BatchDetail"),
        (f"/v1/batches/{one}/items", "BatchItemPage"),
        (f"/v1/batches/{one}/items/{two}", "BatchItem"),
        (f"/v1/runs/{two}", "RunMinimum"),
    ):
        assert_in_contract(api.get(f"{path}?{text}"), 200, schema)
