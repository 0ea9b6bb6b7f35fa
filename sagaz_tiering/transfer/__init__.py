"""Snapshots and replay records from any storage to any other: all of them or of chosen sagas, checked, resumable.

A package of its own beside `engine`, because it needs no tier, no catalog and no driver: only two storages.
"""

from sagaz_tiering.transfer.report import Counts, Failure, TransferProgress, TransferReport
from sagaz_tiering.transfer.run import transfer_snapshots

__all__ = ["Counts", "Failure", "TransferProgress", "TransferReport", "transfer_snapshots"]
