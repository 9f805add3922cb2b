"""`manage.py create_api_key`: the key, alone, on standard output, or a reason and nothing made."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from accounts.models import ApiKey, Organization, Scope
from accounts.services import find_caller, hash_key
from tests.factories import make_organization

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> tuple[str, str]:
    """What it prints on standard output and standard error."""
    out, err = StringIO(), StringIO()
    call_command("create_api_key", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_the_key_alone_is_on_standard_output_and_it_works() -> None:
    organization = make_organization(slug="acme")
    out, err = run("acme")
    key = out.removesuffix("\n")
    assert (out, err) == (f"{key}\n", "")
    caller = find_caller(key=key)
    assert caller is not None
    assert (caller.organization, caller.scopes) == (organization, frozenset(Scope.values))
    row = ApiKey.objects.get()
    assert (row.name, row.secret_hash, row.prefix, row.expires_at) == ("command line", hash_key(key), key[:12], None)


def test_create_makes_the_organization_and_says_so_elsewhere() -> None:
    out, err = run("acme", "--create")
    assert err == "Created the organization acme.\n"
    assert find_caller(key=out.strip()) is not None
    assert (Organization.objects.get().slug, Organization.objects.get().name) == ("acme", "acme")


def test_create_uses_the_organization_that_is_there() -> None:
    organization = make_organization(slug="acme", name="ACME Corp.")
    _, err = run("acme", "--create")
    assert (err, ApiKey.objects.get().organization) == ("", organization)
    assert Organization.objects.get().name == "ACME Corp."


def test_scopes_name_and_expiry_are_as_told() -> None:
    make_organization(slug="acme")
    run("acme", "--scopes", "batches:read", "runs:read", "--name", "dashboard", "--expires-in-days", "30")
    row = ApiKey.objects.get()
    assert (row.scopes, row.name) == (["batches:read", "runs:read"], "dashboard")
    assert row.expires_at is not None
    assert abs(row.expires_at - timezone.now() - timedelta(days=30)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nobody"], r"There is no organization 'nobody'\. Add --create to make it\."),
        (["no slug!", "--create"], "'no slug!' is no slug"),
        (["größe", "--create"], "'größe' is no slug"),
        (["", "--create"], "'' is no slug"),
        (["x" * 101, "--create"], "is no slug"),
        (["new", "--create", "--scopes", "batches:write"], "unknown scope: batches:write. Scopes are: models:read, "),
        (["new", "--create", "--scopes"], "expected at least one argument"),
        (["new", "--create", "--expires-in-days", "0"], "--expires-in-days must be "),
        (["new", "--create", "--expires-in-days", "-1"], "--expires-in-days must be "),
        (["new", "--create", "--expires-in-days", "9999999"], "--expires-in-days must be "),
        (["new", "--create", "--expires-in-days", "9999999999999"], "--expires-in-days must be "),
        (["new", "--create", "--expires-in-days", "soon"], "invalid int value"),
        (["new", "--create", "--name", "x" * 256], "--name must have "),
        ([], "the following arguments are required: ORG_SLUG"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_made(arguments: list[str], reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        run(*arguments)
    assert (ApiKey.objects.count(), Organization.objects.count()) == (0, 0)
