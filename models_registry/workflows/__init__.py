"""From a ComfyUI workflow to a manifest (docs/comfyui.md). Pure functions: no database, no network.

graph.py reads the file, inputs.py says what a customer may change, names.py what that is called, manifest.py
writes it down.
"""
