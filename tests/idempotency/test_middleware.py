"""The cases of docs/idempotency.md, one test each, with real connections."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.conf import settings as django_settings
from django.core.management import call_command
from django.db import OperationalError, connection, transaction
from django.test import Client
from django.utils import timezone

from batches import services as batch_services
from batches.models import Batch, BatchItem, Run
from callbacks.models import CallbackSecret
from idempotency import services
from idempotency.models import IdempotencyRecord
from models_registry.models import Model
from tests.conftest import Api, Rung
from tests.contract.checks import assert_error
from tests.factories import make_batch, make_model
from tests.threads import InThread, lock_waiters, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

BODY = {"input": [{"text": "a", "client_ref": "1"}, {"text": "b"}], "metadata": {"n": 1}}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def model() -> Model:
    return make_model()


def post(api: Api, model: Model, key: str | None = "k", body: Any = None) -> Any:
    headers = {} if key is None else {"Idempotency_Key": key}
    return api.post(f"/v1/models/{model}/batches", BODY if body is None else body, **headers)


def row_counts() -> tuple[int, int, int, int]:
    return (
        Batch.objects.count(),
        Run.objects.count(),
        BatchItem.objects.count(),
        IdempotencyRecord.objects.count(),
    )


def test_without_the_header_every_request_is_its_own_write(api: Api, model: Model) -> None:
    first, second = post(api, model, key=None), post(api, model, key=None)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] != second.json()["id"]
    assert row_counts() == (2, 4, 4, 0)


def test_the_first_request_stores_its_answer_beside_its_work(api: Api, model: Model) -> None:
    response = post(api, model)
    assert response.status_code == 201
    assert "Idempotent-Replayed" not in response.headers
    record = IdempotencyRecord.objects.get()
    assert (record.organization_id, record.key, record.response_status) == (api.organization.pk, "k", 201)
    assert bytes(record.response_body) == response.content
    assert record.expires_at - record.created_at == timedelta(hours=24)
    assert row_counts() == (1, 2, 2, 1)


def test_the_same_request_gets_the_stored_answer_byte_for_byte_and_rings_nobody(
    api: Api, model: Model, rung: Rung
) -> None:
    first = post(api, model)
    rung.calls.clear()
    second = post(api, model)
    assert second.status_code == 201
    assert second.content == first.content
    assert second.headers["Idempotent-Replayed"] == "true"
    assert second.headers["Content-Type"] == "application/json"
    assert second.headers["X-Request-Id"] != first.headers["X-Request-Id"]
    assert row_counts() == (1, 2, 2, 1)
    assert rung.calls == []


@pytest.mark.parametrize(
    "same",
    [
        b'{"metadata":{"n":1},"input":[{"client_ref":"1","text":"a"},{"text":"b"}]}',
        b' {\n"input": [ {"text": "\\u0061", "client_ref": "1"}, {"text": "b"} ], "metadata": {"n": 1}}\n',
    ],
    ids=["another member order", "spacing and escapes"],
)
def test_json_is_compared_by_value(api: Api, model: Model, same: bytes) -> None:
    assert post(api, model, body=same).content == post(api, model).content
    assert row_counts() == (1, 2, 2, 1)


@pytest.mark.parametrize("key", ['"k"', "k"])
def test_a_key_in_quotes_is_the_same_key(api: Api, model: Model, key: str) -> None:
    post(api, model, key="k")
    assert post(api, model, key=key).headers["Idempotent-Replayed"] == "true"


def test_the_key_with_another_body_is_a_conflict_and_changes_nothing(api: Api, model: Model, rung: Rung) -> None:
    post(api, model)
    rung.calls.clear()
    response = post(api, model, body={"input": [{"text": "other"}]})
    message = "This Idempotency-Key was used for a different request."
    assert response.status_code == 409
    assert response.json() == {
        "code": "CONFLICT",
        "message": message,
        "errors": [{"loc": ["header", "Idempotency-Key"], "msg": message, "type": "idempotency_mismatch"}],
    }
    assert "Retry-After" not in response.headers
    assert row_counts() == (1, 2, 2, 1)
    assert rung.calls == []


def test_the_key_on_another_path_is_a_conflict(api: Api, model: Model) -> None:
    post(api, model)
    response = post(api, make_model())
    assert response.status_code == 409
    assert response.json()["errors"][0]["type"] == "idempotency_mismatch"


def test_two_organizations_may_use_the_same_key(api: Api, model: Model) -> None:
    other = Api()
    assert post(api, model).json()["id"] != post(other, model).json()["id"]
    assert row_counts() == (2, 4, 4, 2)


def test_two_keys_of_one_organization_share_its_idempotency_keys(api: Api, model: Model) -> None:
    assert post(Api(api.organization), model).content == post(api, model).content
    assert row_counts() == (1, 2, 2, 1)


@pytest.mark.parametrize("key", ["", "a b", "ä", "x" * 256, '""', "a\tb"])
def test_a_key_that_is_not_visible_ascii_is_refused_and_nothing_happens(api: Api, model: Model, key: str) -> None:
    response = post(api, model, key=key)
    assert (response.status_code, response.json()["code"]) == (400, "BAD_REQUEST")
    assert row_counts() == (0, 0, 0, 0)


def test_a_lone_quotation_mark_is_a_key_like_any_other(api: Api, model: Model) -> None:
    assert post(api, model, key='"').status_code == 201
    assert IdempotencyRecord.objects.get().key == '"'


def test_after_a_refusal_nothing_is_kept_and_a_corrected_body_may_use_the_key(api: Api, model: Model) -> None:
    refused = post(api, model, body={"input": [{"text": 1}]})
    assert refused.status_code == 422
    assert row_counts() == (0, 0, 0, 0)
    assert post(api, model).status_code == 201
    assert row_counts() == (1, 2, 2, 1)


def test_after_an_error_of_ours_nothing_is_kept(api: Api, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    real = batch_services._insert_runs_and_items

    def broken(*args: Any) -> None:
        real(*args)
        raise RuntimeError("after the work was done")

    monkeypatch.setattr(batch_services, "_insert_runs_and_items", broken)
    assert post(api, model).status_code == 500
    assert row_counts() == (0, 0, 0, 0)
    monkeypatch.undo()
    assert post(api, model).status_code == 201


def test_a_dry_run_leaves_its_key_free(api: Api, model: Model) -> None:
    dry = api.post(f"/v1/models/{model}/batches?validate_only=true", BODY, Idempotency_Key="k")
    assert dry.status_code == 200
    assert row_counts() == (0, 0, 0, 0)
    assert post(api, model).status_code == 201


def test_an_expired_record_no_longer_counts(api: Api, model: Model) -> None:
    first = post(api, model)
    IdempotencyRecord.objects.update(expires_at=timezone.now())
    second = post(api, model)
    assert (second.status_code, "Idempotent-Replayed" in second.headers) == (201, False)
    assert second.json()["id"] != first.json()["id"]
    assert row_counts() == (2, 4, 4, 1)
    assert post(api, model).content == second.content


def test_a_read_with_the_header_is_not_recorded(api: Api, model: Model) -> None:
    batch, _ = make_batch(organization=api.organization, model=model)
    assert api.get(f"/v1/batches/{batch.pk}", Idempotency_Key="k").status_code == 200
    assert IdempotencyRecord.objects.count() == 0


def test_the_bound_on_waiting_ends_with_the_request(api: Api, model: Model) -> None:
    post(api, model)
    with connection.cursor() as cursor:
        cursor.execute("SHOW lock_timeout")
        assert cursor.fetchone() == ("0",)


def test_a_database_that_is_away_is_no_twin(api: Api, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(**given: Any) -> None:
        raise OperationalError("the connection is lost")

    monkeypatch.setattr(services, "reserve", away)
    response = post(api, model)
    assert (response.status_code, response.json()["code"]) == (503, "SERVICE_UNAVAILABLE")
    assert row_counts() == (0, 0, 0, 0)


def test_a_record_that_expires_between_two_looks_is_asked_for_again(
    api: Api, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    post(api, model)
    monkeypatch.setattr(services, "find_record", lambda **given: None)
    response = post(api, model)
    assert response.status_code == 409
    assert response.json()["errors"][0]["type"] == "idempotency_in_flight"
    assert response.headers["Retry-After"] == "1"


def test_method_path_and_body_make_a_request_what_it_is() -> None:
    requests = [
        {"method": method, "path": path, "body": body}
        for method in ("PATCH", "DELETE")
        for path in ("/v1/a", "/v1/b")
        for body in (b"{}", b"[]")
    ]
    assert len({services.fingerprint(**request) for request in requests}) == len(requests)  # type: ignore[arg-type]


def test_a_key_of_nobody_is_no_key(model: Model) -> None:
    response = Client().post(f"/v1/models/{model}/batches", BODY, headers={"Idempotency-Key": "k"})
    assert response.status_code == 401
    assert IdempotencyRecord.objects.count() == 0


# --- Answers that hold a secret -----------------------------------------------------------------------------------------


def post_secret(api: Api, label: str = "shop") -> Any:
    return api.post("/v1/callback-secrets", {"label": label}, Idempotency_Key="k")


def raw_record() -> tuple[bool, str]:
    """(is_encrypted, the whole row as the database would print it, bytes and all)."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT is_encrypted, record::text || encode(response_body, 'escape')"
            " FROM idempotency_idempotencyrecord AS record"
        )
        [(is_encrypted, text)] = cursor.fetchall()
    return is_encrypted, text


def test_an_answer_that_holds_a_secret_is_stored_encrypted_and_replayed_byte_for_byte(api: Api) -> None:
    first = post_secret(api)
    assert first.status_code == 201
    secret = first.json()["plain_secret"]
    is_encrypted, text = raw_record()
    assert is_encrypted
    hidden = [secret, secret[10:-1], secret.encode().hex(), "plain_secret", b"plain_secret".hex()]
    assert [each for each in hidden if each in text] == []
    second = post_secret(api)
    assert (second.status_code, second.content) == (201, first.content)
    assert second.headers["Content-Type"] == "application/json"
    assert second.headers["Idempotent-Replayed"] == "true"
    assert CallbackSecret.objects.count() == 1


def test_other_answers_are_stored_as_they_are(api: Api, model: Model) -> None:
    response = post(api, model)
    is_encrypted, text = raw_record()
    assert not is_encrypted
    assert response.json()["id"] in text


def test_a_record_is_read_with_a_key_that_no_longer_encrypts(api: Api, settings: Any) -> None:
    first = post_secret(api)
    settings.ENCRYPTION_KEYS = [Fernet.generate_key().decode(), *settings.ENCRYPTION_KEYS]
    assert post_secret(api).content == first.content


def test_a_record_whose_key_is_gone_is_a_conflict_and_makes_nothing(
    api: Api, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    secret = post_secret(api).json()["plain_secret"]
    settings.ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    response = post_secret(api)
    [error] = assert_error(response, 409, "CONFLICT")
    assert (error["loc"], error["type"]) == (["header", "Idempotency-Key"], "idempotency_unreadable")
    assert "Retry-After" not in response.headers  # it will not get better
    assert secret not in response.content.decode() + caplog.text
    assert (CallbackSecret.objects.count(), IdempotencyRecord.objects.count()) == (1, 1)
    assert [record.levelname for record in caplog.records if record.name == "idempotency.middleware"] == ["ERROR"]


def test_an_expired_record_that_was_encrypted_is_taken_over_by_one_that_is_not(api: Api, model: Model) -> None:
    post_secret(api)
    IdempotencyRecord.objects.update(expires_at=timezone.now())
    first = post(api, model)
    assert first.status_code == 201
    assert not raw_record()[0]
    assert post(api, model).content == first.content


# --- Twins: two connections, sequenced with events ---------------------------------------------------------------------


class Pause:
    """Holds the first request inside its transaction, after its work, until it is let go."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()

    def wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def paused(*args: Any, **kwargs: Any) -> Any:
            result = real(*args, **kwargs)
            if not self.reached.is_set():
                self.reached.set()
                assert self.go.wait(10)
            return result

        return paused


@pytest.fixture
def pause(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pause]:
    pause = Pause()
    monkeypatch.setattr(batch_services, "_insert_runs_and_items", pause.wrap(batch_services._insert_runs_and_items))
    yield pause
    pause.go.set()


def test_a_twin_waits_for_the_first_and_replays_its_answer(api: Api, model: Model, pause: Pause) -> None:
    with InThread(lambda: post(api, model)) as first:
        assert pause.reached.wait(10)
        with InThread(lambda: post(api, model)) as twin:
            wait_until(lambda: lock_waiters() == 1, what="the twin to wait on the unique index")
            pause.go.set()
    assert (first.result.status_code, twin.result.status_code) == (201, 201)
    assert twin.result.content == first.result.content
    assert twin.result.headers["Idempotent-Replayed"] == "true"
    assert row_counts() == (1, 2, 2, 1)


def test_a_twin_with_another_body_waits_and_is_a_conflict(api: Api, model: Model, pause: Pause) -> None:
    with InThread(lambda: post(api, model)) as first:
        assert pause.reached.wait(10)
        with InThread(lambda: post(api, model, body={"input": [{"text": "other"}]})) as twin:
            wait_until(lambda: lock_waiters() == 1, what="the twin to wait on the unique index")
            pause.go.set()
    assert (first.result.status_code, twin.result.status_code) == (201, 409)
    assert twin.result.json()["errors"][0]["type"] == "idempotency_mismatch"
    assert row_counts() == (1, 2, 2, 1)


def test_a_twin_that_waited_long_enough_is_told_to_come_back(
    api: Api, model: Model, pause: Pause, settings: Any
) -> None:
    settings.IDEMPOTENCY_WAIT = timedelta(milliseconds=50)
    with InThread(lambda: post(api, model)) as first:
        assert pause.reached.wait(10)
        twin = post(api, model)
        pause.go.set()
    assert twin.status_code == 409
    assert twin.json()["errors"][0]["type"] == "idempotency_in_flight"
    assert twin.headers["Retry-After"] == "1"
    assert first.result.status_code == 201
    assert post(api, model).content == first.result.content
    assert row_counts() == (1, 2, 2, 1)


def test_when_the_first_fails_its_waiting_twin_does_the_work(
    api: Api, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go = threading.Event(), threading.Event()
    real = batch_services._insert_runs_and_items

    def fails_once(*args: Any) -> None:
        real(*args)
        if not reached.is_set():
            reached.set()
            assert go.wait(10)
            raise RuntimeError("the first one fails")

    monkeypatch.setattr(batch_services, "_insert_runs_and_items", fails_once)
    with InThread(lambda: post(api, model)) as first:
        assert reached.wait(10)
        with InThread(lambda: post(api, model)) as twin:
            wait_until(lambda: lock_waiters() == 1, what="the twin to wait on the unique index")
            go.set()
    assert (first.result.status_code, twin.result.status_code) == (500, 201)
    assert "Idempotent-Replayed" not in twin.result.headers
    assert row_counts() == (1, 2, 2, 1)
    assert Batch.objects.get().pk.hex == twin.result.json()["id"].replace("-", "")


def test_fifty_at_once_with_one_key_make_exactly_one_batch(api: Api, model: Model, settings: Any) -> None:
    settings.IDEMPOTENCY_WAIT = timedelta(seconds=10)
    barrier = threading.Barrier(50)

    def request() -> Any:
        barrier.wait(10)
        return post(api, model)

    others = [InThread(request).start() for _ in range(50)]
    answers = [other.result for other in others]
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert row_counts() == (1, 2, 2, 1)


# --- Crashes: a process that dies by SIGKILL in the middle of the request -----------------------------------------------

_CRASH = """
import os, signal, sys
import django
django.setup()
from django.conf import settings
settings.DATABASES["default"]["NAME"] = sys.argv[1]
from django.db import transaction
from django.test import Client
from idempotency import services
die = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "between work and answer":
    services.keep = die
else:
    real = services.keep
    def keep_and_die_after_commit(**kwargs):
        real(**kwargs)
        transaction.on_commit(die)
    services.keep = keep_and_die_after_commit
Client(headers={"Authorization": "Bearer " + sys.argv[3], "Idempotency-Key": "k"}).post(
    sys.argv[4], sys.argv[5], content_type="application/json")
raise SystemExit("still alive")
"""


@pytest.mark.parametrize(
    ("moment", "left_behind"),
    [("between work and answer", (0, 0, 0, 0)), ("between commit and answer", (1, 2, 2, 1))],
)
def test_a_crash_leaves_both_or_neither_and_the_retry_makes_exactly_one_batch(
    api: Api, model: Model, moment: str, left_behind: tuple[int, ...]
) -> None:
    process = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            _CRASH,
            str(connection.settings_dict["NAME"]),
            moment,
            api.key,
            f"/v1/models/{model}/batches",
            json.dumps(BODY),
        ],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == -9, process.stderr
    # The server notices the lost client and rolls back what was open.
    wait_until(lambda: row_counts() == left_behind, what=f"the rows {left_behind}")
    retry = post(api, model)
    assert retry.status_code == 201
    assert ("Idempotent-Replayed" in retry.headers) == (left_behind[0] == 1)
    assert row_counts() == (1, 2, 2, 1)


# --- Purging ------------------------------------------------------------------------------------------------------------


def make_records(organization: Any, *, expired: int, kept: int) -> None:
    now = timezone.now()
    IdempotencyRecord.objects.bulk_create(
        IdempotencyRecord(
            organization=organization,
            key=f"k{number}",
            fingerprint="",
            response_status=201,
            created_at=now,
            expires_at=now + timedelta(hours=1 if number >= expired else -1),
        )
        for number in range(expired + kept)
    )


def test_the_purge_deletes_expired_records_only_slice_by_slice(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_PURGE_SLICE", 2)
    make_records(api.organization, expired=5, kept=2)
    assert services.purge_expired() == 5
    assert sorted(IdempotencyRecord.objects.values_list("key", flat=True)) == ["k5", "k6"]


def test_of_two_purges_at_once_the_second_waits_for_nobody(api: Api) -> None:
    make_records(api.organization, expired=1, kept=1)
    with transaction.atomic():
        assert services.purge_expired() == 1
        with InThread(services.purge_expired) as other:
            assert other.result == 0


def test_the_command_only_counts_without_apply(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    make_records(api.organization, expired=3, kept=1)
    call_command("purge_idempotency")
    assert capsys.readouterr().out == "Would delete 3 expired record(s). Add --apply.\n"
    assert IdempotencyRecord.objects.count() == 4
    call_command("purge_idempotency", "--apply")
    assert capsys.readouterr().out == "Deleted 3 expired record(s).\n"
    assert IdempotencyRecord.objects.count() == 1


def test_the_purge_task_runs_from_beat() -> None:
    from idempotency.tasks import purge

    assert django_settings.CELERY_BEAT_SCHEDULE["purge-idempotency"]["task"] == purge.name
    purge()
