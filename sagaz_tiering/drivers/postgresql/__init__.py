"""PostgreSQL: pool, named queries, migrations, and one translation of driver errors."""
