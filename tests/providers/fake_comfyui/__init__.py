"""A ComfyUI server without torch: same HTTP, same traps, real small files.

Made from what two unmodified servers did: generation "A" is 0.3.64 (no `/api/jobs`), "B" is 0.33.0. What it leaves out: the
websocket, partial execution targets, metadata in PNGs, and pictures beyond one plain colour.

    with FakeComfyUI(generation="B", seconds_per_prompt=0.02) as fake:
        ...  # fake.url; fake.hold(), fake.crash(), fake.inject("POST /prompt", status=500), fake.submits, …

As a process: `python -m tests.providers.fake_comfyui --port 8188 --generation B --seconds 0.02`.
"""

from tests.providers.fake_comfyui.server import FakeComfyUI

__all__ = ["FakeComfyUI"]
