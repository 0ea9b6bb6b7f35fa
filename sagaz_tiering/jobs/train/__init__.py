"""The job that trains compression dictionaries."""
