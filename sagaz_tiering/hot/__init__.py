"""The Redis tier: what applications call (`tier`), what jobs call (`queue`), whether it is the Redis that it was.

Each change is one Lua script in `lua`; names and bytes are in `keys`, answers are decoded in `values`.
It never asks PostgreSQL or S3, and never removes a save but that exact one: a newer one stays.
"""
