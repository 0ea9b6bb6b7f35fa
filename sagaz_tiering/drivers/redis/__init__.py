"""Connections to Redis: alone, by Sentinel, in a cluster; many calls over one of them."""
