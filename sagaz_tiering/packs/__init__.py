"""Packs: the objects of the cold tier, many sagas' snapshots each (format: docs/pack-format.md)."""
