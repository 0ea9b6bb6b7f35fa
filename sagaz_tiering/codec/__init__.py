"""A snapshot as bytes and back, exactly: header, typed JSON, zstd, checksum; large ones on a thread.

`value` is the format that every tier stores, pinned by golden files.
It never knows which tier the bytes are for, and never guesses: what it cannot give back exactly it refuses at save.
"""
