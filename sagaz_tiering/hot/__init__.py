"""The Redis tier: what applications call (`tier`), what jobs call (`queue`), whether it is the Redis that it was.

Each change is one Lua script in `lua`; names, bytes and what scripts answer are in `layout`.
Only `incarnation` asks the catalog. It never asks S3, and never removes a save but that exact one: a newer one stays.
"""
