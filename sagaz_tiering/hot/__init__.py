"""The Redis tier: what applications call, what jobs call, and whether it is still the Redis that it was."""
