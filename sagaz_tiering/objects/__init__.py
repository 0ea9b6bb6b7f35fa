"""Bytes under keys: `base` is the contract, `s3` and `local` keep it, one contract suite holds both to it."""
