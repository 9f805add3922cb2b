"""The fake's disk, in memory: input, output and temp folders."""

from __future__ import annotations

import hashlib
import re

from tests.providers.fake_comfyui.nodes import HOME, NodeError

FOLDERS = ("input", "output", "temp")


class Files:
    """Folder -> subfolder -> name -> bytes."""

    def __init__(self) -> None:
        self._files: dict[str, dict[str, dict[str, bytes]]] = {folder: {} for folder in FOLDERS}

    def read(self, folder: str, subfolder: str, name: str) -> bytes | None:
        return self._files[folder].get(subfolder, {}).get(name)

    def names(self, folder: str) -> list[str]:
        """Every file's path in the folder."""
        return [
            f"{subfolder}/{name}" if subfolder else name
            for subfolder, names in self._files[folder].items()
            for name in names
        ]

    def empty(self, folder: str) -> None:
        self._files[folder].clear()

    def delete(self, folder: str, path: str) -> None:
        subfolder, _, name = path.rpartition("/")
        del self._files[folder][subfolder][name]

    def upload(self, subfolder: str, name: str, body: bytes, *, overwrite: bool) -> str:
        """Store an input; the name it got: another one if there is a different file under this one."""
        names = self._files["input"].setdefault(subfolder, {})
        stem, dot, extension = name.rpartition(".")
        if not dot:
            stem, extension = name, ""
        given, count = name, 1
        while not overwrite and names.get(given, body) != body:
            given = f"{stem} ({count}){dot}{extension}"
            count += 1
        names[given] = body
        return given

    def has_input(self, path: str) -> bool:
        subfolder, _, name = path.rpartition("/")
        return self.read("input", subfolder, name) is not None

    def version(self, path: str) -> str:
        """Changes with the content of an input."""
        subfolder, _, name = path.rpartition("/")
        return hashlib.sha256(self.read("input", subfolder, name) or b"").hexdigest()

    # --- What nodes see ----------------------------------------------------------------------------------------

    def read_input(self, path: str) -> bytes:
        subfolder, _, name = path.rpartition("/")
        body = self.read("input", subfolder, name)
        if body is None:
            raise NodeError("FileNotFoundError", f"[Errno 2] No such file or directory: '{HOME}/input/{path}'\n")
        return body

    def write(self, where: str, prefix: str, extension: str, body: bytes) -> dict[str, str]:
        """Save under a name with a counter: the highest there is, plus one."""
        if prefix.startswith("/") or ".." in prefix.split("/"):
            raise NodeError(
                "Exception",
                "**** ERROR: Saving image outside the output folder is not allowed.\n"
                f" full_output_folder: {HOME}/output/{prefix}\n",
            )
        subfolder, _, base = prefix.rpartition("/")
        names = self._files[where].setdefault(subfolder, {})
        taken = re.compile(rf"{re.escape(base)}_(\d{{5}})_\.")
        counts = [int(match[1]) for match in map(taken.match, names) if match]
        name = f"{base}_{max(counts, default=0) + 1:05}_.{extension}"
        names[name] = body
        return {"filename": name, "subfolder": subfolder, "type": where}
