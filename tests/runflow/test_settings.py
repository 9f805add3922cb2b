"""Settings are loud, and their combinations are checked."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from celery.app.defaults import DEFAULTS
from django.conf import settings
from django.core.checks import run_checks
from django.utils.module_loading import import_string
from kombu.transport.redis import Transport

from models_registry.models import Provider

ROOT = Path(__file__).resolve().parents[2]


# A stack that runs beside the tests supplies what is not set; these tests ask what happens without one.
_NO_STACK_ENV = "import environ; environ.Env.read_env = lambda *args, **kwargs: None"


def read_setting(expression: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Evaluate an expression over the real settings in a process that has these variables only."""
    return subprocess.run(
        [sys.executable, "-c", f"{_NO_STACK_ENV}\nimport runflow.settings as s; print(({expression}))"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        check=False,
    )


NEEDED = {
    "SECRET_KEY": "k",
    "ENCRYPTION_KEYS": "e",
    "DATABASE_URL": "postgres://db.example/runflow",
    "REDIS_URL": "redis://cache.example/0",
}


@pytest.mark.parametrize("missing", sorted(NEEDED))
def test_a_required_variable_has_no_default(missing: str) -> None:
    done = read_setting("1", **{name: value for name, value in NEEDED.items() if name != missing})
    assert done.returncode == 1
    assert f"Set the {missing} environment variable" in done.stderr


def test_debug_is_off_and_files_lie_in_var_by_default() -> None:
    done = read_setting("s.DEBUG, s.STORAGES['default']['BACKEND'], s.MEDIA_ROOT == s.VAR_DIR / 'media'", **NEEDED)
    assert done.stdout == "(False, 'django.core.files.storage.FileSystemStorage', True)\n"


def test_several_encryption_keys_are_read_in_their_order_and_debug_has_one_of_its_own() -> None:
    done = read_setting("s.ENCRYPTION_KEYS", **NEEDED | {"ENCRYPTION_KEYS": "new=,old="})
    assert done.stdout == "['new=', 'old=']\n", done.stderr
    servers = {name: NEEDED[name] for name in ("DATABASE_URL", "REDIS_URL")}
    done = read_setting(
        "len(s.ENCRYPTION_KEYS), s.ENCRYPTION_KEYS[0] == s._DEBUG_ENCRYPTION_KEY", DEBUG="true", **servers
    )
    assert done.stdout == "(1, True)\n", done.stderr


def test_a_bucket_selects_the_s3_store() -> None:
    code = "s.STORAGES['default']['BACKEND'], s.STORAGES['default']['OPTIONS']['bucket_name']"
    done = read_setting(code, S3_BUCKET="shop", **NEEDED)
    assert done.stdout == "('storages.backends.s3.S3Storage', 'shop')\n", done.stderr
    assert import_string("storages.backends.s3.S3Storage")(bucket_name="shop").bucket_name == "shop"


def test_https_turns_the_secure_settings_on() -> None:
    done = read_setting(
        "s.SECURE_SSL_REDIRECT, s.SESSION_COOKIE_SECURE, s.ALLOWED_HOSTS",
        PUBLIC_BASE_URL="https://runflow.example",
        **NEEDED,
    )
    assert done.stdout == "(True, True, ['runflow.example'])\n"


def test_the_database_url_has_the_last_word_on_its_options() -> None:
    options = "s.DATABASES['default']['OPTIONS']"
    done = read_setting(f"{options}['options'], {options}['connect_timeout'], {options}['keepalives_idle']", **NEEDED)
    assert done.stdout == "('-c jit=off', 5, 30)\n", done.stderr
    url = NEEDED["DATABASE_URL"] + "?connect_timeout=9&sslmode=require"
    done = read_setting(f"{options}['connect_timeout'], {options}['sslmode']", **NEEDED | {"DATABASE_URL": url})
    assert done.stdout == "(9, 'require')\n", done.stderr


# --- Celery -------------------------------------------------------------------------------------------------------------


def test_every_celery_setting_is_one_that_celery_knows() -> None:
    """A misspelt one would have no effect, and say nothing."""
    ours = {name.removeprefix("CELERY_").lower() for name in dir(settings) if name.startswith("CELERY_")}
    assert ours - set(DEFAULTS) == set()


def test_a_worker_waits_for_its_broker_without_end_and_a_customer_does_not() -> None:
    # None: for ever. 0 would be: not once.
    assert current_app.conf.broker_connection_max_retries is None
    assert (current_app.conf.task_publish_retry, current_app.conf.broker_transport_options["max_retries"]) == (False, 0)


def test_an_idle_worker_is_not_taken_for_one_whose_broker_hangs() -> None:
    """Redis answers a blocking read after this time where there is nothing: that must not be a time-out."""
    assert settings.CELERY_BROKER_TRANSPORT_OPTIONS["socket_timeout"] > Transport.brpop_timeout


def test_a_set_of_the_default_size_may_take_its_time() -> None:
    longest = Provider._meta.get_field("claim_size").default * Provider._meta.get_field("run_timeout").default
    assert longest < settings.CELERY_TASK_TIME_LIMIT


@pytest.mark.parametrize(
    ("name", "value", "check_id", "is_deployment"),
    [
        ("RATE_LIMIT_PER_MINUTE", -1, "accounts.E001", False),
        ("RATE_LIMIT_BURST", -1, "accounts.E001", False),
        ("REDIS_URL", "amqp://127.0.0.1:5672", "accounts.E002", False),
        ("PUBLIC_BASE_URL", "runflow.example", "assets.E001", False),
        ("PUBLIC_BASE_URL", "http://127.0.0.1:8000", "assets.W001", True),
        ("RUN_LEASE", timedelta(milliseconds=500), "batches.E001", False),
        ("RUN_MAX_ATTEMPTS", 0, "batches.E002", False),
        ("STALLED_AFTER", timedelta(seconds=9), "batches.E003", False),
        ("CELERY_TASK_TIME_LIMIT", 10.0, "batches.E004", False),
    ],
)
def test_a_combination_that_cannot_work_is_named(
    settings: Any, name: str, value: object, check_id: str, is_deployment: bool
) -> None:
    def found() -> set[str | None]:
        return {message.id for message in run_checks(include_deployment_checks=is_deployment)}

    settings.PUBLIC_BASE_URL = "https://runflow.example"
    assert check_id not in found()
    setattr(settings, name, value)
    assert check_id in found()
