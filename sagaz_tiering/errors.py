"""Every error this package raises, in one tree.

    SagazTieringError
    ├── ConfigError                     the YAML file or the environment is wrong
    │   └── PolicyError                 a policy asks for something impossible
    ├── WrongEventLoop                  called on another event loop, thread or process than the one it belongs to
    ├── MissingDependencyError          an optional package is not installed (.package)
    ├── InvalidSnapshot                 the caller's snapshot cannot be stored as it is
    │   ├── NotSerializable             a value would not come back equal (.path)
    │   ├── NaiveTimestamp              a time without a zone
    │   └── SnapshotTooLarge            over the configured limit
    ├── TierUnavailable                 a server that might hold the answer cannot be asked
    │   ├── HotTierUnavailable          Redis
    │   │   └── HotTierRefused          it is there, and lets us not in
    │   ├── CatalogUnavailable          PostgreSQL (catalog and durable copy)
    │   │   └── CatalogRefused          it is there, and lets us not in
    │   ├── ColdTierUnavailable         the object store
    │   │   └── CredentialsUnavailable  it cannot be told who asks: AWS credentials are missing, late or expired
    │   ├── LocalStorageUnavailable     the directory of a FilesystemSnapshotStorage
    │   └── MasterKeyUnavailable        the master key or the KMS that opens encrypted frames
    ├── UnexpectedFailure               something that nobody thought of; its cause is with it
    │   └── StatementRefused            PostgreSQL takes no such statement or value, however often it is asked
    ├── NoSuchSnapshot                  a saga has no snapshot of that step, time or id
    ├── Unreadable                      what is there cannot be read (.unreadable; of a list the rest: .readable)
    │   ├── SnapshotArchived            the bytes are in an archive class; restore first
    │   ├── SnapshotLost                an index names a snapshot that no tier holds
    │   └── CorruptData                 stored bytes are not what was written
    │       ├── CorruptRecord           one snapshot's bytes, or bytes of another one than was asked for
    │       └── CorruptPack             a pack: truncated, altered or not one of ours
    │           └── ErasedData          encrypted, and its data key was destroyed or lost
    ├── LegalHold                       what should be removed or replaced is held
    ├── RewriteRefused                  a saved snapshot must not be replaced (`rewrite: refuse`)
    ├── MassDelete                      a run would remove too large a share at once
    ├── ClockDisagreement               the servers' clocks are too far apart to remove anything by them
    ├── BudgetSpent                     today's budget for the object store is used up
    ├── SchemaMismatch                  catalog schema older or newer than this code
    ├── LeaseLost                       another process took over; this one must stop writing
    ├── ForeignCatalog                  the bucket prefix belongs to another catalog
    │   ├── CatalogBehind               the bucket moved on without this database: a copy, or an older dump
    │   ├── CatalogUnproven             the database is another one than before: a copy, or it was moved
    │   └── WrongBucket                 no mark where this catalog's packs should be
    └── ObjectStoreError                what an object store answered
        ├── ObjectNotFound
        ├── ObjectArchived              readable only after a restore
        ├── ObjectExists                a conditional write found the key taken
        ├── BucketUnusable              no such bucket, or wrong credentials
        │   └── AccessRefused           no permission for what was asked
        └── InvalidKey                  a key that escapes the prefix or cannot be stored

`exit_code` is what the CLI exits with; `permanent` tells a job whether a retry can help; `hint` what to do next.
"""

from __future__ import annotations

import copyreg
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sagaz_tiering.storage_class import RestoreOption as RestoreOption  # where it is looked for


class SagazTieringError(Exception):
    """Base of every error of this package."""

    exit_code: int = 1
    permanent: bool = True
    hint: str = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint or self.hint
        self.__notes__ = [f"hint: {self.hint}"] if self.hint else []  # a traceback says it too

    def __reduce__(self) -> tuple[Any, ...]:
        """Comes out of another process as it was there, whatever its class is made from."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]  # as pickle does


class ConfigError(SagazTieringError):
    """The configuration file or the environment is wrong; nothing was started."""

    exit_code = 2


class PolicyError(ConfigError):
    """A policy asks for something impossible or dangerous."""


class WrongEventLoop(SagazTieringError):
    """What has open connections was called on another event loop, thread or process than theirs; nothing was sent."""

    hint = "use or close it where it was first used; storages made from a URL, or by from_config, serve every loop"


class MissingDependencyError(SagazTieringError):
    """An optional package is needed for what was asked; `package` is what to install."""

    exit_code = 2

    def __init__(self, package: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs {package!r}, which is not installed", hint=f"pip install {package}")
        self.package = package


class UnexpectedFailure(SagazTieringError):
    """A driver, a server or our own code failed in a way that nobody thought of; the cause is `__cause__`."""

    hint = "the log has its cause; if it comes again, please report it with that"
    permanent = False


class StatementRefused(UnexpectedFailure):
    """PostgreSQL is there, and takes no such statement or value; asked again it would say the same."""

    permanent = True


class InvalidSnapshot(SagazTieringError):
    """The snapshot cannot be stored as it is; nothing was written."""

    exit_code = 3


_CONTEXTS = "see 'What a context may hold' in the documentation"


class NotSerializable(InvalidSnapshot):
    """A value in the snapshot would not come back equal; `path` says where it is."""

    def __init__(self, path: str, reason: str, *, hint: str = "") -> None:
        super().__init__(f"{path}: {reason}", hint=f"{hint}; {_CONTEXTS}" if hint else _CONTEXTS)
        self.path = path


class NaiveTimestamp(InvalidSnapshot):
    """A time without a zone cannot be ordered against others."""

    hint = "pass an aware datetime, for example datetime.now(timezone.utc)"


class SnapshotTooLarge(InvalidSnapshot):
    """The encoded snapshot is over the configured limit."""

    hint = "put large payloads behind external_refs, or raise limits.max_snapshot"


class TierUnavailable(SagazTieringError):
    """A server that might hold the answer cannot be asked; the answer is unknown, not `None`."""

    exit_code = 4
    permanent = False


class HotTierUnavailable(TierUnavailable):
    """Redis cannot be asked."""

    hint = "check tiers.hot.url and that Redis is running and reachable"


class HotTierRefused(HotTierUnavailable):
    """Redis refuses the password or the command. Saves go on in PostgreSQL as if it were away."""


class CatalogUnavailable(TierUnavailable):
    """PostgreSQL, which holds the catalog and the durable copies, cannot be asked."""

    hint = "check catalog.url and that PostgreSQL is running and reachable"


class CatalogRefused(CatalogUnavailable):
    """PostgreSQL refuses user, password or database. To be asked again: it may be put right meanwhile."""


class ColdTierUnavailable(TierUnavailable):
    """The object store cannot be asked."""

    hint = "check tiers.cold and that the object store is running and reachable"


class CredentialsUnavailable(ColdTierUnavailable):
    """There are no valid AWS credentials to ask the object store with; they are looked for again with each call."""

    hint = "check the AWS credentials of this process (environment, profile, role), not the bucket"


class LocalStorageUnavailable(TierUnavailable):
    """The directory of a FilesystemSnapshotStorage cannot be read or written; what was stored before is intact."""

    hint = "check base_path, its volume, free space and permissions"


class MasterKeyUnavailable(TierUnavailable):
    """Data keys cannot be opened or made: the master key or the KMS that wraps them is missing or another one."""

    hint = "check the section `encryption` and, with it, the key file or the KMS key; see: sagaz-tiering keys status"


class NoSuchSnapshot(SagazTieringError):
    """The saga has no snapshot of that step, time or id, or none any more; the hint lists what it has."""

    exit_code = 8


class Unreadable(SagazTieringError):
    """Something that is there cannot be read.

    Where a list was asked for, `readable` has the rest of it, in the list's order and within its limit (snapshots, or
    replay records where those were listed); `unreadable` has what could not be read, by id, and why: the error itself
    is that of the first, and of an archived one before all others. A walk gives the rest and raises at its end.
    """

    readable: Sequence[Any] = ()
    unreadable: Mapping[UUID, Unreadable] = MappingProxyType({})


class SnapshotArchived(Unreadable):
    """The snapshot exists, but its bytes are in an archive class and must be restored before they are read."""

    exit_code = 5
    permanent = False

    def __init__(
        self,
        *,
        storage_class: str,
        snapshot_ids: Sequence[UUID],
        object_keys: Sequence[str] = (),
        options: Sequence[RestoreOption] = (),
        how_to_restore: str = "",
    ) -> None:
        shown = ", ".join(str(i) for i in snapshot_ids[:3]) + (" …" if len(snapshot_ids) > 3 else "")
        ways = f" (restore {'; '.join(map(str, options))})" if options else ""
        things, are = ("snapshot", "is") if len(snapshot_ids) == 1 else ("snapshots", "are")
        what = f"{len(snapshot_ids)} {things} ({shown}) {are} archived in {storage_class}{ways}"
        super().__init__(what, hint=how_to_restore)
        self.storage_class = storage_class
        self.snapshot_ids = tuple(snapshot_ids)
        self.object_keys = tuple(object_keys)
        self.options = tuple(options)
        self.how_to_restore = how_to_restore
        self.restore_id: UUID | None = None
        """The restore that the read asked for, where it does so (`on_archived: request`)."""

    @property
    def eta(self) -> timedelta | None:
        """Longest wait of the default way (the first option), or None where it is not known."""
        return self.options[0].eta if self.options else None

    @property
    def cost_usd(self) -> float | None:
        """Cost of the default way (the first option) in USD, or None where it is not known."""
        return self.options[0].cost_usd if self.options else None


class LegalHold(SagazTieringError):
    """What should be removed or replaced is under a legal hold; nothing was changed."""

    exit_code = 9
    hint = "see: sagaz-tiering holds; release the hold first if it has ended"


class RewriteRefused(SagazTieringError):
    """The policy says `rewrite: refuse`, and the id is archived or stored with other content; nothing was changed."""

    exit_code = 3
    hint = "save it under a new id, or set `rewrite: allow` in its policy"


class MassDelete(SagazTieringError):
    """Policies would end a larger share of snapshots earlier than promised than may go unasked; nothing was done."""

    exit_code = 10


class ClockDisagreement(SagazTieringError):
    """The catalog server's clock is far from every other server's; the run removed nothing."""

    exit_code = 12
    permanent = False
    hint = "set the clock of PostgreSQL's host by NTP (time comes from there), and that of Redis' host too"


class BudgetSpent(SagazTieringError):
    """Today's budget for the object store has no room for the next step; it was not done."""

    exit_code = 11
    permanent = False
    hint = "the job goes on tomorrow (UTC); or raise budget.requests_per_day or budget.usd_per_day"


class SnapshotLost(Unreadable):
    """An index names a snapshot whose bytes no tier holds; a server lost data behind our back."""

    exit_code = 6
    hint = "check Redis persistence and maxmemory-policy (must be noeviction)"


class CorruptData(Unreadable):
    """Stored bytes are not what was written."""

    exit_code = 6


class CorruptRecord(CorruptData):
    """The bytes of one snapshot are truncated, altered, of an unknown format, or another one's than was asked for."""


class CorruptPack(CorruptData):
    """A pack is truncated, altered or not one of ours."""


class ErasedData(CorruptPack):
    """The bytes are encrypted and their data key is gone: destroyed by an erasure, or lost with the catalog."""

    hint = "after a `catalog rebuild`: sagaz-tiering keys import FILE; what was erased is gone for good"


class SchemaMismatch(SagazTieringError):
    """The catalog's schema is older or newer than this code."""

    exit_code = 2


class LeaseLost(SagazTieringError):
    """Another process holds the lease now; this one stopped before it could write."""

    exit_code = 7
    permanent = False


class ForeignCatalog(SagazTieringError):
    """The bucket prefix is owned by another catalog; nothing was written or deleted there."""

    exit_code = 7
    hint = "use another prefix for this catalog; only if the other catalog is gone for good, delete owner.json"


class CatalogBehind(ForeignCatalog):
    """The bucket's mark moved on without this catalog, which is a copy or of an older dump; nothing was done there."""

    hint = "a copy needs a prefix of its own; after a restore, with every daemon stopped: sagaz-tiering catalog adopt"


class CatalogUnproven(ForeignCatalog):
    """The database is not the one that moved the bucket's mark last: it is a copy, or it was moved or upgraded.
    `nonce` is what the mark carries: a daemon that sees it stand still takes the database for the owner."""

    permanent = False
    hint = (
        "a daemon finds out within minutes: it goes on if nobody else moves the mark. A copy needs its own prefix. "
        "After a restore, with every daemon stopped: `sagaz-tiering catalog adopt`"
    )

    def __init__(self, message: str, *, nonce: UUID | None) -> None:
        super().__init__(message)
        self.nonce = nonce


class WrongBucket(ForeignCatalog):
    """The prefix has no mark, and this catalog has packs: it was emptied, made anew, or is the wrong one."""

    hint = (
        "correct tiers.cold.url, or bring the objects back and run `sagaz-tiering catalog adopt`; only for a prefix "
        "that is new on purpose: `sagaz-tiering catalog adopt --new-bucket`"
    )


class ObjectStoreError(SagazTieringError):
    """An object store refused or failed an operation."""

    exit_code = 4


class ObjectNotFound(ObjectStoreError):
    """No object under that key."""


class ObjectArchived(ObjectStoreError):
    """The object is in an archive class and is not restored."""


class ObjectExists(ObjectStoreError):
    """A conditional write found the key taken; nothing was overwritten."""


class BucketUnusable(ObjectStoreError):
    """The bucket does not exist or refuses us."""

    exit_code = 2


class AccessRefused(BucketUnusable):
    """The bucket or directory is there, but we have no permission for what was asked."""


class InvalidKey(ObjectStoreError):
    """A key escapes the prefix or holds characters an object key cannot have."""
