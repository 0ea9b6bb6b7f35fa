"""The facade: one storage over all tiers.

`save` and `read` are its two paths, `freshness` says how far Redis alone may be trusted, `merge` which copy counts.
It never moves a snapshot between tiers, and never answers None for what it could not look for.
"""
