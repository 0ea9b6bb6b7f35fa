"""PostgreSQL: pool, named queries, and one translation of driver errors."""
