"""Descriptions of devices: a YAML file each, read by ``device_file.py``."""
