"""What tests share."""

import os
import sys

# Hundreds of processes import the same modules: what was compiled is kept, also where the environment says otherwise.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
