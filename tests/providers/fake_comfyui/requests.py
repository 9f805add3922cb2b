"""What is in a request: which route it is for, and the fields of a form."""

from __future__ import annotations

import re

from tests.providers.fake_comfyui.http import Request

_BOUNDARY = re.compile(r'boundary="?([^";]+)')
_NAME = re.compile(r'name="([^"]*)"')
_FILENAME = re.compile(r'filename="([^"]*)"')


def route_of(method: str, path: str) -> tuple[str, str]:
    """A route's handler and its name: ("history", "GET /history/{id}")."""
    parts = path.strip("/").split("/")
    if parts[:2] == ["api", "jobs"]:
        name = {2: "jobs", 3: "job"}.get(len(parts), "job_cancel")
        pattern = "/api/jobs" + "".join(["/{id}", "/cancel"][: len(parts) - 2])
        return name, f"{method} {pattern}"
    if parts[0] in ("history", "object_info") and len(parts) == 2:
        return parts[0], f"{method} /{parts[0]}/{{id}}"
    return "_".join(parts), f"{method} {path}"


def multipart(request: Request) -> dict[str, tuple[str, bytes]]:
    """Field -> (filename, content)."""
    boundary = _BOUNDARY.search(request.headers.get("content-type", ""))
    fields: dict[str, tuple[str, bytes]] = {}
    if boundary is None:
        return fields
    for part in request.body.split(b"--" + boundary[1].encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        text = head.decode()
        name, filename = _NAME.search(text), _FILENAME.search(text)
        if name is not None:
            fields[name[1]] = (filename[1] if filename else "", content.removesuffix(b"\r\n"))
    return fields
