"""Puts the parts together: a configuration becomes open servers, a facade and what jobs run with."""
