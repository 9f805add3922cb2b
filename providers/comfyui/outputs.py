"""A prompt's outputs: which there are, and the artifacts they become."""

from __future__ import annotations

import io
import mimetypes
import re
import warnings
from collections.abc import Mapping
from typing import Any

from PIL import Image

from providers.base import Artifact, OutputType
from providers.comfyui.client import File

_EXTENSION = re.compile(r"\.([A-Za-z0-9]{1,8})$")
_TYPES: dict[str, OutputType] = {"image": "image", "video": "video", "audio": "audio", "text": "text"}
# Servers of their own use (web pages, scripts) are sent as this, so that no browser runs them; so are unknown ones.
_ANYTHING = "application/octet-stream"

Item = dict[str, str]
"""A file, {"filename", "subfolder", "type"} as `/view` wants it; or {"text"}."""


def find_outputs(outputs: Any) -> list[Item]:
    """The outputs of `{node id: {kind: [...]}}` by node and then as the node lists them.

    Every kind is read: video comes under "images", community nodes have kinds of their own. A file is an object with a
    `filename`; beside files there are flags ("animated"). Previews ("temp") are left out. The order of nodes in the answer is
    the order of execution, which differs between runs.
    """
    found: list[Item] = []
    nodes = outputs if isinstance(outputs, Mapping) else {}
    for node_id in sorted(nodes, key=_node_order):
        kinds = nodes[node_id] if isinstance(nodes[node_id], Mapping) else {}
        for kind, items in kinds.items():
            for item in items if isinstance(items, list) else ():
                found += _read_item(kind, item)
    return found


def _read_item(kind: str, item: Any) -> list[Item]:
    if kind == "text" and isinstance(item, str):
        return [{"text": item}]
    if not isinstance(item, Mapping) or not isinstance(item.get("filename"), str):
        return []
    where = str(item.get("type") or "output")
    if where == "temp":
        return []
    return [{"filename": item["filename"], "subfolder": str(item.get("subfolder") or ""), "type": where}]


def _node_order(node_id: str) -> list[tuple[int, str]]:
    """ "2" before "10"; "12:3", a node in a subgraph, after "12"."""
    return [(int(part), "") if part.isdecimal() else (1 << 62, part) for part in node_id.split(":")]


def text_artifact(text: str) -> Artifact:
    return Artifact(text.encode("utf-8", "replace"), "text/plain; charset=utf-8", "text", "txt")


def file_artifact(filename: str, file: File) -> Artifact:
    """The artifact of a file, by what the server says it is, and by its name where the server does not know."""
    mime_type = file.content_type.partition(";")[0].strip().lower() or _ANYTHING
    if mime_type == _ANYTHING:
        guess = mimetypes.guess_type(filename)[0] or _ANYTHING
        mime_type = guess if guess.partition("/")[0] in ("image", "video", "audio") else _ANYTHING
    output_type = _TYPES.get(mime_type.partition("/")[0], "file")
    width, height = _size_of(file.body) if output_type == "image" else (None, None)
    return Artifact(file.body, mime_type, output_type, _extension_of(filename, mime_type), width, height)


def _extension_of(filename: str, mime_type: str) -> str:
    if match := _EXTENSION.search(filename):
        return match[1].lower()
    return (mimetypes.guess_extension(mime_type) or ".bin")[1:]


def _size_of(body: bytes) -> tuple[int, int] | tuple[None, None]:
    """Width and height from the header; nothing is decoded, so the size of a huge picture does no harm."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(body)) as image:
                return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, None  # a format that Pillow does not know, or no picture: the file is handed over as it is
