"""What a plan takes of a device and how long its steps would take, before any weight is read.

``few_layers.py`` plans a small model that stands for the whole one, ``costs.py`` counts what each
node moves and computes, ``seconds.py`` is the time model, ``devices/`` are its numbers as data.
"""
