"""The job that makes archived packs readable, and tells who asked."""
