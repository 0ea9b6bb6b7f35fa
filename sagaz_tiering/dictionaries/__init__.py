"""Compression dictionaries: how they are trained, and the ones that a process knows."""
