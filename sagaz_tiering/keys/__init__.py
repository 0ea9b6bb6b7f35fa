"""Data keys and the master keys that wrap them: a key file, or KMS.

`keyring` has the data keys of sagas while they are needed, `master` is what opens them.
They never know what they encrypt, and a data key is never stored or logged unwrapped.
"""
