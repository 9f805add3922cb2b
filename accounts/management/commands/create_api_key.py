"""Make an API key and print it, alone, on standard output: `KEY=$(manage.py create_api_key acme --create)`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from accounts.models import Organization, Scope
from accounts.services import create_api_key

MAX_DAYS = 36_500  # a hundred years; timestamps end at the year 9999
MAX_NAME = 255


class Command(BaseCommand):
    help = "Make an API key for an organization and print it. It is shown this once: only a hash is kept."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("org_slug", metavar="ORG_SLUG")
        parser.add_argument("--create", action="store_true", help="make the organization when it does not exist")
        parser.add_argument("--name", default="command line", help="what the key is for (default: %(default)s)")
        parser.add_argument(
            "--scopes", nargs="+", default=list(Scope.values), metavar="SCOPE", help="default: all of them"
        )
        parser.add_argument("--expires-in-days", type=int, default=None, metavar="N", help="default: never")

    def handle(self, *, org_slug: str, create: bool, name: str, scopes: list[str], **options: Any) -> None:
        days: int | None = options["expires_in_days"]
        if days is not None and not 1 <= days <= MAX_DAYS:
            raise CommandError(f"--expires-in-days must be from 1 to {MAX_DAYS}.")
        if len(name) > MAX_NAME:
            raise CommandError(f"--name must have at most {MAX_NAME} characters.")
        with transaction.atomic():  # no organization is left behind when there is no key for it
            key = self._make(org_slug, create, name, scopes, timedelta(days=days) if days is not None else None)
        self.stdout.write(key)

    def _make(self, org_slug: str, create: bool, name: str, scopes: list[str], expires_in: timedelta | None) -> str:
        organization = Organization.objects.filter(slug=org_slug).first()
        if organization is None:
            if not create:
                raise CommandError(f"There is no organization {org_slug!r}. Add --create to make it.")
            organization = Organization(slug=org_slug, name=org_slug)
            try:
                organization.full_clean()
            except ValidationError:
                reason = "is no slug: at most 100 letters, digits, hyphens and underscores."
                raise CommandError(f"{org_slug!r} {reason}") from None
            organization.save()
            self.stderr.write(f"Created the organization {org_slug}.")
        try:
            _, key = create_api_key(organization=organization, name=name, scopes=scopes, expires_in=expires_in)
        except ValueError as exc:
            raise CommandError(f"{exc}. Scopes are: {', '.join(Scope.values)}") from None
        return key
