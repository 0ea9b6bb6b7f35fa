"""What is where: packs, locations, durable copies, leases, replays and job history, all in PostgreSQL.

`Catalog` bundles one repository per aggregate over one database; `sql` and `migrations` lie beside them.
It never speaks to Redis or S3, and never decides what is due: it tells, and commits what it is told.
"""

from __future__ import annotations

from uuid import UUID

from sagaz_tiering.catalog.catching_up import CatchingUp, Scrubbing
from sagaz_tiering.catalog.compaction import Compaction
from sagaz_tiering.catalog.dictionaries import CatalogDictionaries
from sagaz_tiering.catalog.durable import DurableCopies
from sagaz_tiering.catalog.erasures import Erasures
from sagaz_tiering.catalog.find import Find
from sagaz_tiering.catalog.history import Audit, History, Quarantine, Spending
from sagaz_tiering.catalog.holds import Holds
from sagaz_tiering.catalog.hot_saves import HotSaves, KnownHotTier
from sagaz_tiering.catalog.journal import Journal
from sagaz_tiering.catalog.leases import Leases
from sagaz_tiering.catalog.locations import Locations
from sagaz_tiering.catalog.mark import Ownership
from sagaz_tiering.catalog.packs import Packs
from sagaz_tiering.catalog.reindexing import Reindexed
from sagaz_tiering.catalog.replays import Replays
from sagaz_tiering.catalog.restores import Restores
from sagaz_tiering.catalog.saga_keys import SagaKeys
from sagaz_tiering.catalog.sagas import Sagas
from sagaz_tiering.catalog.surveys import CatalogTotals, PackList, Surveys
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.drivers.postgresql.queries import load

_SQL = load(__package__, "jobs")


class Catalog:
    """The repositories over one database; opens and closes nothing itself."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.audit = Audit(db)
        self.catching_up = CatchingUp(db)
        self.compaction = Compaction(db)
        self.dictionaries = CatalogDictionaries(db)
        self.durable = DurableCopies(db)
        self.erasures = Erasures(db)
        self.find = Find(db)
        self.history = History(db)
        self.holds = Holds(db)
        self.hot_saves = HotSaves(db)
        self.hot_tier = KnownHotTier(db)
        self.journal = Journal(db)
        self.leases = Leases(db)
        self.locations = Locations(db)
        self.ownership = Ownership(db)
        self.pack_list = PackList(db)
        self.packs = Packs(db)
        self.quarantine = Quarantine(db)
        self.reindexed = Reindexed(db)
        self.replays = Replays(db)
        self.restores = Restores(db)
        self.saga_keys = SagaKeys(db)
        self.sagas = Sagas(db)
        self.scrubbing = Scrubbing(db)
        self.spending = Spending(db)
        self.surveys = Surveys(db)
        self.totals = CatalogTotals(db)

    async def identity(self) -> UUID:
        """The id this catalog was born with; packs and the bucket's owner mark carry it."""
        return UUID(str(await self.db.fetchval(_SQL["catalog_id"])))

    async def take_identity(self, catalog_id: UUID) -> bool:
        """Become that catalog, for a rebuild; False for one that holds packs under another identity."""
        return await self.db.execute(_SQL["take_identity"], catalog_id) == 1
