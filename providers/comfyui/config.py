"""What a provider row may say about its ComfyUI servers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from providers.base import AdapterConfigError, ProviderConfig

# A server that does garbage collection or loads a model answers late, but answers (seconds, for each answer).
TIMEOUT = 30.0
# The same prompt runs for this share of run_timeout: nobody works on it. Below 1, because a run's time counts from its
# hand-over, and what waits behind such a prompt has to be moved elsewhere before it is over.
STALL_SHARE = 0.8
# A folder of its own in the server's input folder, so that an operator can empty it.
UPLOAD_SUBFOLDER = "runflow"
# A long video. An output is held in memory while it is stored.
MAX_OUTPUT_BYTES = 256 * 1024 * 1024

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
# Credentials by definition: never stored. The `http` adapter has the same rules.
_CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie"})
_FRAMING = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})
_FOLDER = re.compile(r"(?:[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*)?")
_OPTIONS = ("headers", "timeout", "stall_seconds", "upload_subfolder", "max_output_bytes")


@dataclass(frozen=True, slots=True)
class ComfyConfig:
    """`headers` hold secrets: never in a log, a message or a `repr`."""

    headers: dict[str, str]
    timeout: float
    stall_seconds: float
    upload_subfolder: str
    max_output_bytes: int

    def __repr__(self) -> str:
        return f"ComfyConfig(headers={sorted(self.headers)})"


def read_config(provider: ProviderConfig, *, environ: Mapping[str, str] = os.environ) -> ComfyConfig:
    """Check the provider's config and take its secrets from the environment. Raises AdapterConfigError."""
    options = provider.config
    try:
        if unknown := sorted(set(options) - set(_OPTIONS)):
            raise ValueError(f"there is no option {unknown[0]!r}; there are {', '.join(_OPTIONS)}")
        upload_subfolder = options.get("upload_subfolder", UPLOAD_SUBFOLDER)
        if not isinstance(upload_subfolder, str) or not _FOLDER.fullmatch(upload_subfolder):
            raise ValueError("upload_subfolder must be a folder's name, or empty for the input folder itself")
        return ComfyConfig(
            headers=_headers(options.get("headers", {}), environ),
            timeout=_number(options, "timeout", TIMEOUT),
            stall_seconds=_number(options, "stall_seconds", STALL_SHARE * provider.run_timeout),
            upload_subfolder=upload_subfolder,
            max_output_bytes=int(_number(options, "max_output_bytes", MAX_OUTPUT_BYTES)),
        )
    except ValueError as fault:
        raise AdapterConfigError(f"Provider {provider.code!r}: {fault}.") from fault


def _number(options: Mapping[str, Any], name: str, default: float) -> float:
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"{name} must be a number above 0")
    return float(value)


def _headers(declared: Any, environ: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(declared, dict):
        raise ValueError("headers must be an object")
    headers = {}
    for name, value in declared.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a header")
        if name.lower() in _FRAMING:
            raise ValueError(f"header {name!r} is set by the HTTP client")
        if isinstance(value, str) and name.lower() in _CREDENTIALS:
            raise ValueError(f"header {name!r} must be the name of an environment variable, {{env: NAME}}")
        text = value if isinstance(value, str) else _secret(name, value, environ)
        # Of the value nothing is repeated: it may be the secret.
        if not _HEADER_VALUE.fullmatch(text):
            raise ValueError(f"the value of header {name!r} is empty, or is not plain ASCII")
        headers[name] = text
    return headers


def _secret(name: str, value: Any, environ: Mapping[str, str]) -> str:
    """The text behind `{env: NAME, prefix: TEXT}`, `prefix` being optional."""
    is_reference = isinstance(value, dict) and "env" in value and set(value) <= {"env", "prefix"}
    if not is_reference or not all(isinstance(part, str) for part in value.values()):
        raise ValueError(f"header {name!r} must be a text, or {{env: NAME, prefix: TEXT}}")
    secret = environ.get(value["env"], "").strip()
    if not secret:
        raise ValueError(f"the environment variable {value['env']} is not set, which header {name!r} needs")
    return str(value.get("prefix", "")) + secret
