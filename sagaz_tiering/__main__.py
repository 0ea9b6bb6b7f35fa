"""`python -m sagaz_tiering`."""

from __future__ import annotations

import sys

from sagaz_tiering.cli import main

if __name__ == "__main__":
    sys.exit(main())
