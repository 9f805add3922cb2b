"""Requests that schemathesis makes up from the document, single ones and chains along its links, against a running stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# Parameters that name something real in nine of ten requests; the rest is made up, and mostly 404.
OFTEN_REAL = 0.9

# What a request of a valid shape may be answered, beside 2xx. Whether an input fits the model, whether a batch has ended,
# whether a filter or a cursor is one of this list, and an event's id one of this batch, the document cannot say.
_CONFIG = """
[auth.openapi.apiKey]
bearer = {key}

[checks.positive_data_acceptance]
expected-statuses = ["2xx", "304", "401", "403", "404", "409", "422", "429"]

[[operations]]
include-operation-id-regex = "^(list|stream)"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "403", "404", "429"]
"""


@dataclass(frozen=True)
class Report:
    """What came of it; `text` is the tool's report for people."""

    requests: int
    is_clean: bool
    text: str


def fuzz(*, url: str, key: str, real: Mapping[str, str], directory: Path, max_examples: int, seed: int) -> Report:
    """Run it. `real`: values of parameters, as `path.batch_id`. `max_examples`: for each operation in each phase.

    Many short runs find more than one long one, which spends its time on not asking anything twice.
    """
    config, report = directory / "fuzz.toml", directory / "report.json"
    report.unlink(missing_ok=True)
    config.write_text(_CONFIG.format(key=json.dumps(key)) + _dictionaries(real))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{url}/v1/openapi.json"),
            *("--url", url, "--seed", str(seed), "--max-examples", str(max_examples)),
            *("--report", "json", "--report-json-path", str(report)),
            # One thread: Python 3.11's ast.parse, which hypothesis calls, fails now and then in two at once.
            *("--workers", "1", "--continue-on-failure", "--no-color", "--warnings", "off"),
        ],
        cwd=directory,  # where it leaves its examples
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.openapi.fuzz_hooks", "PYTHONPATH": str(ROOT), "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        check=False,
    )
    if not report.is_file():
        raise RuntimeError(done.stdout + done.stderr)
    told: dict[str, Any] = json.loads(report.read_text())
    return Report(told["test_cases"]["generated"], done.returncode == 0, done.stdout + done.stderr)


def _dictionaries(real: Mapping[str, str]) -> str:
    values = [f"[dictionaries.{_word(name)}]\nvalues = [{json.dumps(value)}]\n" for name, value in real.items()]
    bindings = [f'"{name}" = {{ dictionary = "{_word(name)}", probability = {OFTEN_REAL} }}\n' for name in real]
    return "\n" + "".join(values) + "\n[parameters]\n" + "".join(bindings)


def _word(parameter: str) -> str:
    return parameter.replace(".", "_").replace("-", "_").lower()
