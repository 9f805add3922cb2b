"""ComfyUI servers as a provider: the template is an API-format graph, a run is one prompt.

Both generations of the server are spoken to: with and without `/api/jobs`. docs/providers/comfyui.md is for operators.
"""
