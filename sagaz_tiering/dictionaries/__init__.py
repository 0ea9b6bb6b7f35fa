"""Compression dictionaries: how they are trained, and the ones that a process knows.

`training` makes them of samples, `cache` has those in memory and keeps them beside the packs.
It never deletes one, and never writes with one that is not in the bucket: what names it must stay readable.
"""
