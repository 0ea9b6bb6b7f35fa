"""The job that ends what is past its retention, and what keeps it from ending too much."""
