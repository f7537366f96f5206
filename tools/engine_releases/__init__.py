"""Releases of serving engines: whether they have what our adapters use, and whether tests ran.

What was found is data beside this file; docs/engine_releases.md is made of it.
"""
