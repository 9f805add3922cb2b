"""The formats that contract.md section 1 promises, for any validator of JSON Schema."""

from __future__ import annotations

import re
import uuid
from datetime import datetime

import jsonschema

# Our own: jsonschema checks date-time only where an optional package is installed, and passes everything elsewhere.
FORMATS = jsonschema.FormatChecker(formats=())
# contract.md section 1: ISO 8601 in UTC, ending in +00:00, never Z.
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?\+00:00")


@FORMATS.checks("date-time", ValueError)
def _is_timestamp(value: object) -> bool:
    return not isinstance(value, str) or bool(TIMESTAMP.fullmatch(value) and datetime.fromisoformat(value))


@FORMATS.checks("uuid", ValueError)
def _is_uuid(value: object) -> bool:
    return not isinstance(value, str) or str(uuid.UUID(value)) == value
