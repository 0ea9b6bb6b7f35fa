"""Master keys: what wraps the data keys of encrypted sagas. A key file, AWS KMS, or both while moving."""
