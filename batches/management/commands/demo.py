"""Send a real batch through a running server and show what a client sees of it: what `make demo` runs."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import Organization
from accounts.services import create_api_key
from batches.demo import Demo, DemoError
from runflow.lib.commands import console_of

ORGANIZATION = "demo"
KEY_LIFETIME = timedelta(days=1)


class Command(BaseCommand):
    help = (
        "Send the pictures of demo/images through a running server as one batch, over HTTP, and check what comes back. "
        "Makes the organization `demo` and an API key that is good for a day; writes to var/demo. It replaces the files "
        "of an earlier demo there, and touches nothing of other organizations."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--base-url", required=True, metavar="URL", help="where the server answers, like http://127.0.0.1:8000"
        )
        parser.add_argument(
            "--keep", action="store_true", help="the server stays up afterwards: show how to go on by hand"
        )

    def handle(self, *, base_url: str, keep: bool, **options: Any) -> None:
        # At INFO it writes a line for each request, signed URLs included, in between.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        console = console_of(self, options)
        organization, _ = Organization.objects.get_or_create(slug=ORGANIZATION, defaults={"name": "Demo"})
        row, key = create_api_key(organization=organization, name="demo", expires_in=KEY_LIFETIME)
        try:
            with Demo(console=console, base_url=base_url, key=key, key_shown=f"{row.prefix}…") as demo:
                demo.run()
                if keep:
                    demo.show_how_to_go_on()
        except DemoError as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted.", returncode=130) from None
