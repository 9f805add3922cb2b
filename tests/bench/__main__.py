"""`make bench`: the numbers of this project, as ratios within one run, so that they mean the same on any machine.

    POST of 100 items, whole HTTP request, p50   <= 2.0 x the raw-SQL insert of the same rows
    end of a batch to its callback, p95, idle    < 1 s
    callbacks to nine hosts beside a dead one    <= 1.25 x the time without it
    100 jobs of 20 ms through one server         <= 1.15 x what the server needs by itself
    the same over four servers                   >= 3.5 x faster
    10,000 jobs in flight at one server          < 300 MiB in the worker
    every list, filter and order, 1,000,000 rows no scan; lists without a filter <= 1.25 x a table of a thousand
    a claim with 100,000 runs in the queue       <= 1.25 x one with 100; a second tenant's run is in the next one

The floor is what the same rows cost without any of our code: one transaction, one INSERT for each table (RawInsert).
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from django.db import connection  # noqa: E402
from django.test.utils import setup_databases, teardown_databases  # noqa: E402
from django.utils import timezone  # noqa: E402

from tests.bench.callbacks import bench_callbacks  # noqa: E402
from tests.bench.create import bench_create  # noqa: E402
from tests.bench.fairness import bench_fairness  # noqa: E402
from tests.bench.lists import ROWS, bench_lists  # noqa: E402
from tests.bench.servers import bench_servers  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--callbacks", type=int, default=1000, help="callbacks in a burst, default: %(default)s")
    parser.add_argument("--in-flight", type=int, default=10_000, help="jobs at one server, default: %(default)s")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows in the lists, default: %(default)s")
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="create, callbacks, servers, fairness, lists; all if none is named"
    )
    options = parser.parse_args()
    parts: dict[str, Callable[[], bool]] = {
        "create": lambda: bench_create(options.rounds),
        "callbacks": lambda: bench_callbacks(options.callbacks),
        "servers": lambda: bench_servers(options.in_flight),
        "fairness": bench_fairness,
        "lists": lambda: bench_lists(options.rows),
    }
    if unknown := set(options.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    databases = setup_databases(verbosity=0, interactive=False)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SHOW server_version")
            server = cursor.fetchone()[0]
            cursor.execute("SHOW fsync")
            fsync = cursor.fetchone()[0]
        sys.stdout.write(
            f"{timezone.now():%Y-%m-%d} Python {platform.python_version()}, PostgreSQL {server} (fsync {fsync}),"
            f" {os.cpu_count()} CPUs, {options.rounds} rounds\n"
        )
        results = [parts[name]() for name in options.parts or parts]
    finally:
        connection.close()
        teardown_databases(databases, verbosity=0)
    sys.stdout.write("The targets are met.\n" if all(results) else "A target is MISSED.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
