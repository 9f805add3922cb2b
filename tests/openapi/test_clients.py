"""docs/clients.md does what it says: a client is generated from the running server, passes a type checker, and does a batch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from django.conf import settings
from django.core.management import call_command

from batches.models import Batch
from tests.e2e.processes import Stack, running_stack
from tests.factories import make_key, make_model
from tests.test_docs import ROOT, block, text_of

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = "docs/clients.md"
PICTURES = sorted((ROOT / "demo" / "images").glob("*.jpg"))[:3]
# The generator's own file: `__exit__(self, *args: object)` hands its arguments to httpx.
MYPY = "[mypy]\nstrict = true\n[mypy-runflow_client.client]\ndisable_error_code = arg-type\n"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    broker = redis.Redis.from_url(settings.REDIS_URL)
    broker.flushdb()
    with running_stack(tmp_path) as stack:
        yield stack
    broker.flushdb()
    broker.close()


def test_a_client_is_generated_passes_the_type_checker_and_does_the_batch(stack: Stack, tmp_path: Path) -> None:
    call_command("import_models", str(ROOT / "catalogue" / "shop.yaml"), "--apply", verbosity=0)
    caller, key = make_key()
    stack.web()
    stack.worker()
    page = text_of(PAGE)
    (tmp_path / "client.yml").write_text(block(page, "yaml"))
    (tmp_path / "program.py").write_text(block(page, "python"))
    (tmp_path / "mypy.ini").write_text(MYPY)

    def run(*argv: str) -> str:
        done = subprocess.run(
            argv,
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "RUNFLOW_URL": stack.url,
                "RUNFLOW_KEY": key,
                "NO_PROXY": "*",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # It warns of what it leaves out.
    assert "WARNING" not in run("sh", "-e", "-c", block(page, "bash"))
    run("mypy", "--config-file", "mypy.ini", "runflow_client", "program.py")
    first, *lines = run(sys.executable, "program.py", *map(str, PICTURES)).splitlines()

    batch = Batch.objects.get()
    assert (batch.organization_id, batch.status_code, batch.items_succeeded) == (caller.organization.pk, "succeeded", 3)
    assert first == "succeeded 1.65"
    assert [line.split()[0] for line in lines] == [path.name for path in PICTURES]
    assert all(line.split()[1].startswith(f"{stack.url}/v1/files/") for line in lines)

    # A slug of several segments, of which the client makes one percent-encoded segment.
    make_model(owner="google", slug="nano-banana-pro/edit")
    estimate = run(sys.executable, "-c", MANY_SEGMENTS)
    assert "estimated_cost='0.01'" in estimate


MANY_SEGMENTS = """
import os
from runflow_client import AuthenticatedClient
from runflow_client.api.batches import create_batch
from runflow_client.models import BatchCreateRequest, BatchItemInput
client = AuthenticatedClient(base_url=os.environ["RUNFLOW_URL"], token=os.environ["RUNFLOW_KEY"])
body = BatchCreateRequest(input_=[BatchItemInput()])
print(create_batch.sync("google", "nano-banana-pro/edit", client=client, body=body, validate_only=True))
"""
