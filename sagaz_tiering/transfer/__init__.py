"""Snapshots and replay records from any storage to any other: all of them or of chosen sagas, checked, resumable.

`run` is the whole, `phases` commits in order what was copied side by side, `checkpoint` is where it goes on.
It needs no tier, catalog or driver, only two storages, and never deletes anything at the source.
"""

from sagaz_tiering.transfer.report import Counts, Failure, TransferProgress, TransferReport
from sagaz_tiering.transfer.run import transfer_snapshots

__all__ = ["Counts", "Failure", "TransferProgress", "TransferReport", "transfer_snapshots"]
