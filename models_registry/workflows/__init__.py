"""From a ComfyUI workflow to a manifest (docs/comfyui.md). Pure functions: no database, no network.

graph.py reads the file, inputs.py says what a customer may change, values.py what may be given there, names.py
what it is called, and manifest.py writes it down.
"""
