"""Packs: the objects of the cold tier, many sagas' snapshots each (format: docs/pack-format.md).

`format` writes and parses, `frame` is the unit of one read, `reader` fetches and compares with what is vouched for.
Pure but for the reader: it never decides what is packed, and never slices before a bound is checked.
"""
