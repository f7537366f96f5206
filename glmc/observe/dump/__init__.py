"""Dumps: what every pass left behind, as text, runnable Python, JSON, ONNX and pictures.

Nothing here changes a program. Same input, same bytes: times stand in ``times.json`` alone.
"""
