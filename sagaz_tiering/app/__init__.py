"""Puts the parts together: a configuration becomes open servers, a facade and what jobs run with.

The only room that picks backends: `runtime` for tiers, `storage_url` for one storage, `workers` for more processes.
It never decides what happens to a snapshot: that is for policies, the facade and the jobs.
"""
