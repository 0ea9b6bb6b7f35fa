"""Real PostgreSQL, Redis and S3 servers from wheels, on 127.0.0.1, for people (and tests) without any.

A supervisor of each server ends it with the process that started it; a lock keeps one data folder to one owner.
It never listens beyond this machine, and is never what production data should rest on.
"""

from sagaz_tiering.embedded.postgres import PostgresServer
from sagaz_tiering.embedded.redis import RedisServer
from sagaz_tiering.embedded.s3 import S3Credentials, S3Server
from sagaz_tiering.embedded.server import EmbeddedServer
from sagaz_tiering.embedded.servers import EmbeddedServers, Endpoints, endpoints_of_running

__all__ = [
    "EmbeddedServer",
    "EmbeddedServers",
    "Endpoints",
    "PostgresServer",
    "RedisServer",
    "S3Credentials",
    "S3Server",
    "endpoints_of_running",
]
