"""A snapshot as bytes and back, exactly; never which tier they are for."""
