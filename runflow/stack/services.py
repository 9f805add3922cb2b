"""The services around a command: PostgreSQL, Valkey and secret keys, as variables of its environment."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from runflow.stack.keeper import Check, nothing
from runflow.stack.postgres import start_postgres
from runflow.stack.session import ROOT, Session, say, session, write_secret
from runflow.stack.valkey import start_valkey


@contextlib.contextmanager
def services(
    root: Path = ROOT, *, scratch: bool = False, held: Session | None = None, check: Check = nothing
) -> Iterator[dict[str, str]]:
    """Provides PostgreSQL and Valkey and yields DATABASE_URL, REDIS_URL, SECRET_KEY and ENCRYPTION_KEYS for the environment.

    What the environment already names is used as it is. Pass `held` to share a session that is open already.
    Raises StackError when a server does not start or another stack has the data.
    """
    env = {
        name: os.environ[name]
        for name in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "ENCRYPTION_KEYS")
        if os.environ.get(name)
    }
    if "DATABASE_URL" in env:
        say("DATABASE_URL is set: using that server, starting no PostgreSQL")
    if "REDIS_URL" in env:
        say("REDIS_URL is set: using that server, starting no Valkey")
    with contextlib.ExitStack() as stack:
        if held is None and not {"DATABASE_URL", "REDIS_URL"} <= env.keys():
            held = stack.enter_context(session(root, scratch=scratch, check=check))
        var = None if held is None or held.scratch else held.base
        for name, make in (("SECRET_KEY", _new_secret), ("ENCRYPTION_KEYS", _new_encryption_key)):
            if name not in env:
                env[name] = make() if var is None else _kept(var / name.lower(), make)
        if "DATABASE_URL" not in env and held is not None:
            server = start_postgres(held)
            stack.callback(held.stop, server.child)
            env["DATABASE_URL"] = server.url
        if "REDIS_URL" not in env and held is not None:
            server = start_valkey(held)
            stack.callback(held.stop, server.child)
            env["REDIS_URL"] = server.url
        yield env


def _new_secret() -> str:
    return secrets.token_urlsafe(64)


def _new_encryption_key() -> str:
    """A Fernet key."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def _kept(path: Path, make: Callable[[], str]) -> str:
    """The same at every start, or sessions, signed URLs and callback secrets would not survive a restart."""
    if not path.exists():
        write_secret(path, make())
    return path.read_text().strip()
