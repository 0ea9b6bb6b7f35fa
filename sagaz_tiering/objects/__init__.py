"""Bytes under keys: `base` is the contract, `s3` and `local` keep it, one contract suite holds both to it.

What S3 or one of its copies does differently is handled in `s3`, translated in `s3.answers` with hint and permission.
They never know what a pack is: that is the room `packs`.
"""
