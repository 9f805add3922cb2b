"""The services around a command: PostgreSQL, Valkey and a secret key, as variables of its environment."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from runflow.stack.keeper import Check, nothing
from runflow.stack.postgres import start_postgres
from runflow.stack.session import ROOT, Session, say, session, write_secret
from runflow.stack.valkey import start_valkey


@contextlib.contextmanager
def services(
    root: Path = ROOT, *, scratch: bool = False, held: Session | None = None, check: Check = nothing
) -> Iterator[dict[str, str]]:
    """Provides PostgreSQL and Valkey and yields DATABASE_URL, REDIS_URL and SECRET_KEY for the environment.

    What the environment already names is used as it is. Pass `held` to share a session that is open already.
    Raises StackError when a server does not start or another stack has the data.
    """
    env = {name: os.environ[name] for name in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY") if os.environ.get(name)}
    if "DATABASE_URL" in env:
        say("DATABASE_URL is set: using that server, starting no PostgreSQL")
    if "REDIS_URL" in env:
        say("REDIS_URL is set: using that server, starting no Valkey")
    with contextlib.ExitStack() as stack:
        if held is None and not {"DATABASE_URL", "REDIS_URL"} <= env.keys():
            held = stack.enter_context(session(root, scratch=scratch, check=check))
        if "SECRET_KEY" not in env:
            env["SECRET_KEY"] = _new_secret() if held is None or held.scratch else _kept_secret_key(held.base)
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


def _kept_secret_key(var: Path) -> str:
    """The same key at every start, or sessions and signed URLs would not survive a restart."""
    path = var / "secret_key"
    if not path.exists():
        write_secret(path, _new_secret())
    return path.read_text().strip()
