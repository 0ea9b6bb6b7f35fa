"""What is handed over with proof: complete files, a manifest with their digests, and whoever verifies it later.

`draft` is an export while it is made, `manifest` what it says of itself, `verify` looks whether it is as it was made,
`source` reads it back. It never asks a server: who makes an export reads for it, who verifies one has its files alone.
"""
