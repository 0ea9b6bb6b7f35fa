"""Puts the parts together: a configuration becomes open servers, a facade and what jobs run with.

The only room that picks backends: `parts` and `runtime` for tiers, `storage_url` for one storage. `workers` are more
processes.
It never decides what happens to a snapshot: that is for policies, the facade and the jobs.
"""
