"""Callback secrets: who signs with which, one at a time, and how they are kept."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import Organization
from callbacks import services
from callbacks.models import CallbackSecret
from callbacks.services import (
    MAX_ACTIVE_SECRETS,
    CallbackSecretNotFound,
    create_secret,
    disable_secret,
    rotate_encryption,
    signing_keys,
    update_secret,
)
from callbacks.signing import SigningKeys
from runflow.lib import encryption
from runflow.lib.encryption import CannotDecrypt, decrypt
from runflow.lib.errors import ValidationFailed
from tests.factories import make_organization
from tests.threads import InThread, lock_waiters, wait_until

pytestmark = pytest.mark.django_db
OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))


def make_secrets(organization: Organization, count: int) -> list[tuple[CallbackSecret, str]]:
    return [create_secret(organization=organization, label=f"secret {number}") for number in range(count)]


def rows() -> list[dict[str, Any]]:
    return [dict(row) for row in CallbackSecret.objects.order_by("pk").values()]


def current_of(organization: Organization) -> list[CallbackSecret]:
    return list(CallbackSecret.objects.filter(organization=organization, is_current=True))


# --- Creating ---------------------------------------------------------------------------------------------------------


def test_a_secret_is_kept_encrypted_and_recognised_by_its_first_characters() -> None:
    organization = make_organization()
    row, secret = create_secret(organization=organization, label="shop")
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret)
    row.refresh_from_db()
    assert (row.organization, row.label, row.key_prefix) == (organization, "shop", secret[:10])
    assert (row.is_current, row.disabled_at, row.last_used_at) == (True, None, None)
    assert decrypt(row.encrypted) == secret
    assert secret not in str(rows())


def test_the_first_is_current_and_later_ones_are_not() -> None:
    organization, other = make_organization(), make_organization()
    first, second, third = (row for row, _ in make_secrets(organization, 3))
    assert [row.is_current for row in (first, second, third)] == [True, False, False]
    assert create_secret(organization=other, label="another's")[0].is_current


def test_after_all_are_disabled_the_next_is_current_again() -> None:
    organization = make_organization()
    for row, _ in make_secrets(organization, 2):
        disable_secret(secret_id=row.pk, organization=organization)
    row, _ = create_secret(organization=organization, label="new")
    assert current_of(organization) == [row]


def test_ten_are_active_at_most_and_a_disabled_one_makes_room() -> None:
    organization, other = make_organization(), make_organization()
    assert MAX_ACTIVE_SECRETS == 10
    made = make_secrets(organization, 10)
    before = rows()
    with pytest.raises(ValidationFailed) as refused:
        create_secret(organization=organization, label="one more")
    msg = "There are 10 active secrets already: delete one first."
    assert refused.value.errors == [{"loc": ["body"], "msg": msg, "type": "too_many"}]
    assert rows() == before
    create_secret(organization=other, label="another's")
    disable_secret(secret_id=made[3][0].pk, organization=organization)
    assert not create_secret(organization=organization, label="one more")[0].is_current


# --- Changing ---------------------------------------------------------------------------------------------------------


def test_the_mark_moves_and_is_on_one_at_any_time() -> None:
    organization = make_organization()
    (first, _), (second, _) = make_secrets(organization, 2)
    others, _ = create_secret(organization=make_organization(), label="another's")
    changed = update_secret(secret_id=second.pk, organization=organization, is_current=True)
    assert (changed.pk, changed.is_current, changed.label) == (second.pk, True, "secret 1")
    assert current_of(organization) == [second]
    stripped = CallbackSecret.objects.get(pk=first.pk)
    assert stripped.updated_at > first.updated_at
    others.refresh_from_db()
    assert others.is_current


def test_what_is_not_named_stays() -> None:
    organization = make_organization()
    _, (second, _) = make_secrets(organization, 2)
    update_secret(secret_id=second.pk, organization=organization, label="renamed")
    second.refresh_from_db()
    assert (second.label, second.is_current) == ("renamed", False)
    update_secret(secret_id=second.pk, organization=organization, label="again", is_current=True)
    second.refresh_from_db()
    assert (second.label, second.is_current) == ("again", True)


def test_what_is_so_already_is_not_written() -> None:
    organization = make_organization()
    (first, _), (second, _) = make_secrets(organization, 2)
    before = rows()
    update_secret(secret_id=first.pk, organization=organization)
    update_secret(secret_id=first.pk, organization=organization, label="secret 0", is_current=True)
    update_secret(secret_id=second.pk, organization=organization, is_current=False)
    assert rows() == before


def test_the_current_one_keeps_the_mark_until_another_gets_it() -> None:
    organization = make_organization()
    (first, _), _ = make_secrets(organization, 2)
    before = rows()
    with pytest.raises(ValidationFailed) as refused:
        update_secret(secret_id=first.pk, organization=organization, label="renamed", is_current=False)
    msg = "Make another secret current instead."
    assert refused.value.errors == [{"loc": ["body", "is_current"], "msg": msg, "type": "not_allowed"}]
    assert rows() == before


def test_a_disabled_one_never_becomes_current_but_can_be_renamed() -> None:
    organization = make_organization()
    _, (second, _) = make_secrets(organization, 2)
    disable_secret(secret_id=second.pk, organization=organization)
    before = rows()
    with pytest.raises(ValidationFailed) as refused:
        update_secret(secret_id=second.pk, organization=organization, label="renamed", is_current=True)
    msg = "This secret is disabled."
    assert refused.value.errors == [{"loc": ["body", "is_current"], "msg": msg, "type": "not_allowed"}]
    assert rows() == before
    renamed = update_secret(secret_id=second.pk, organization=organization, label="old", is_current=False)
    assert (renamed.label, renamed.is_current) == ("old", False)


# --- Disabling --------------------------------------------------------------------------------------------------------


def test_a_disabled_secret_is_wiped_and_its_row_stays() -> None:
    organization = make_organization()
    [(row, _)] = make_secrets(organization, 1)
    disabled = disable_secret(secret_id=row.pk, organization=organization)
    row.refresh_from_db()
    assert disabled == row
    assert (row.encrypted, row.is_current, row.label) == ("", False, "secret 0")
    assert row.disabled_at is not None
    assert current_of(organization) == []


def test_the_newest_that_is_left_takes_the_place_of_the_current_one() -> None:
    organization = make_organization()
    make_secrets(make_organization(), 2)
    first, second, third, fourth = (row for row, _ in make_secrets(organization, 4))
    disable_secret(secret_id=fourth.pk, organization=organization)
    assert current_of(organization) == [first]
    disable_secret(secret_id=first.pk, organization=organization)
    assert current_of(organization) == [third]
    third_before, third = third, CallbackSecret.objects.get(pk=third.pk)
    assert third.updated_at > third_before.updated_at
    disable_secret(secret_id=second.pk, organization=organization)
    assert current_of(organization) == [third]


def test_disabling_twice_changes_nothing() -> None:
    organization = make_organization()
    (first, _), _ = make_secrets(organization, 2)
    disable_secret(secret_id=first.pk, organization=organization)
    before = rows()
    disable_secret(secret_id=first.pk, organization=organization)
    assert rows() == before


@pytest.mark.parametrize("verb", [disable_secret, update_secret])
def test_anothers_secret_is_not_there(verb: Callable[..., Any]) -> None:
    (row, _), _ = make_secrets(make_organization(), 2)
    before = rows()
    for secret_id in (row.pk, uuid4()):
        with pytest.raises(CallbackSecretNotFound):
            verb(secret_id=secret_id, organization=make_organization())
    assert rows() == before


# --- At once ----------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_two_first_secrets_at_once_are_both_made_and_one_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    organization = make_organization()
    has_inserted, may_commit = threading.Event(), threading.Event()
    real = CallbackSecret.save

    def save(row: CallbackSecret, *args: Any, **kwargs: Any) -> None:
        real(row, *args, **kwargs)
        if not has_inserted.is_set():
            has_inserted.set()
            assert may_commit.wait(10)

    monkeypatch.setattr(CallbackSecret, "save", save)
    with InThread(lambda: create_secret(organization=organization, label="first")) as first:
        assert has_inserted.wait(10)
        with InThread(lambda: create_secret(organization=organization, label="second")) as second:
            wait_until(lambda: lock_waiters() == 1, what="the second to wait")
            may_commit.set()
    assert (first.result[0].is_current, second.result[0].is_current) == (True, False)
    assert CallbackSecret.objects.count() == 2


@pytest.mark.parametrize(
    "verb",
    [
        lambda row: create_secret(organization=row.organization, label="a"),
        lambda row: update_secret(secret_id=row.pk, organization=row.organization, label="a"),
        lambda row: disable_secret(secret_id=row.pk, organization=row.organization),
    ],
    ids=["create", "update", "disable"],
)
def test_every_write_begins_with_the_lock_on_the_organization(
    verb: Callable[[CallbackSecret], Any],
) -> None:
    [(row, _)] = make_secrets(make_organization(), 1)
    with CaptureQueriesContext(connection) as log:
        verb(row)
    statements = [query["sql"] for query in log.captured_queries if "SAVEPOINT" not in query["sql"]]
    locks = [sql for sql in statements if "FOR NO KEY UPDATE" in sql]
    assert locks == statements[:1]
    assert 'FROM "accounts_organization"' in locks[0]
    assert row.organization.pk.hex in locks[0].replace("-", "")


# --- Signing keys -----------------------------------------------------------------------------------------------------


def test_the_current_one_comes_first_then_the_newest() -> None:
    organization = make_organization()
    (_, a), (second, b), (_, c), (fourth, _) = make_secrets(organization, 4)
    disable_secret(secret_id=fourth.pk, organization=organization)
    update_secret(secret_id=second.pk, organization=organization, is_current=True)
    keys = signing_keys(organization_ids=[organization.pk])
    assert keys == {organization.pk: SigningKeys(current_id=second.pk, current=b, active=(b, c, a))}


def test_every_organization_that_is_asked_for_has_its_entry_in_one_statement() -> None:
    one, two, without = make_organization(), make_organization(), make_organization()
    (row, a), (_, b) = make_secrets(one, 2)
    [(other, c)] = make_secrets(two, 1)
    make_secrets(make_organization(), 1)
    with CaptureQueriesContext(connection) as log:
        keys = signing_keys(organization_ids=[one.pk, two.pk, without.pk])
    assert len(log) == 1
    assert keys == {
        one.pk: SigningKeys(current_id=row.pk, current=a, active=(a, b)),
        two.pk: SigningKeys(current_id=other.pk, current=c, active=(c,)),
        without.pk: SigningKeys(),
    }
    assert signing_keys(organization_ids=[]) == {}


def test_a_secret_that_no_key_decrypts_is_logged_and_its_organization_has_no_keys(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.ENCRYPTION_KEYS = [OLD]
    one, two = make_organization(), make_organization()
    make_secrets(one, 1)
    settings.ENCRYPTION_KEYS = [NEW]
    [(_, secret)] = make_secrets(one, 1)
    [(fine, c)] = make_secrets(two, 1)
    with caplog.at_level(logging.ERROR):
        keys = signing_keys(organization_ids=[one.pk, two.pk])
    assert keys == {one.pk: None, two.pk: SigningKeys(current_id=fine.pk, current=c, active=(c,))}
    [broken] = current_of(one)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", f"No key of ENCRYPTION_KEYS decrypts the callback secret {broken.pk}: nothing is signed with it")
    ]
    assert [text for text in (secret, broken.encrypted, OLD, NEW) if text in caplog.text] == []


# --- Changing the key that encrypts them ------------------------------------------------------------------------------


def test_all_secrets_are_encrypted_anew_slice_by_slice_and_stay_the_same(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_ROTATION_SLICE", 2)
    settings.ENCRYPTION_KEYS = [OLD]
    organization = make_organization()
    made = make_secrets(organization, 5)
    disable_secret(secret_id=made[1][0].pk, organization=organization)
    before = rows()
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    assert rotate_encryption() == 4
    settings.ENCRYPTION_KEYS = [NEW]
    expected = [secret for number, (_, secret) in enumerate(made) if number != 1]
    assert [decrypt(row["encrypted"]) for row in rows() if row["encrypted"]] == expected
    assert [row | {"encrypted": ""} for row in rows()] == [row | {"encrypted": ""} for row in before]


def test_one_that_no_key_decrypts_is_named_and_nothing_is_lost(settings: Any) -> None:
    settings.ENCRYPTION_KEYS = [OLD]
    [(row, _)] = make_secrets(make_organization(), 1)
    before = rows()
    settings.ENCRYPTION_KEYS = [NEW]
    with pytest.raises(CannotDecrypt, match=f"decrypts the callback secret {row.pk}"):
        rotate_encryption()
    assert rows() == before


@pytest.mark.django_db(transaction=True)
def test_a_secret_that_is_disabled_during_the_rotation_stays_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    organization = make_organization()
    [(row, _)] = make_secrets(organization, 1)
    has_read, may_write = threading.Event(), threading.Event()
    real = encryption.reencrypt

    def reencrypt(token: str) -> str:
        has_read.set()
        assert may_write.wait(10)
        return real(token)

    monkeypatch.setattr(encryption, "reencrypt", reencrypt)
    with InThread(rotate_encryption) as rotation:
        assert has_read.wait(10)
        with InThread(lambda: disable_secret(secret_id=row.pk, organization=organization)):
            wait_until(lambda: lock_waiters() == 1, what="the row's lock")
            may_write.set()
    assert rotation.result == 1
    row.refresh_from_db()
    assert (row.encrypted, row.disabled_at is None) == ("", False)


def test_the_command_only_counts_without_apply(settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    settings.ENCRYPTION_KEYS = [OLD]
    organization = make_organization()
    (row, _), _ = make_secrets(organization, 2)
    disable_secret(secret_id=row.pk, organization=organization)
    before = rows()
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    call_command("rotate_callback_secrets")
    assert capsys.readouterr().out == "Would encrypt 1 secret(s) anew. Add --apply.\n"
    assert rows() == before
    call_command("rotate_callback_secrets", "--apply")
    assert capsys.readouterr().out == "Encrypted 1 secret(s) anew.\n"
    assert rows() != before


def test_the_command_fails_when_a_key_is_missing(settings: Any) -> None:
    settings.ENCRYPTION_KEYS = [OLD]
    [(row, _)] = make_secrets(make_organization(), 1)
    settings.ENCRYPTION_KEYS = [NEW]
    with pytest.raises(CommandError) as failed:
        call_command("rotate_callback_secrets", "--apply")
    assert str(failed.value) == (
        f"No key of ENCRYPTION_KEYS decrypts the callback secret {row.pk}. Add the key that made it, or disable the secret."
    )
