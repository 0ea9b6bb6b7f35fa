"""What is where: packs, locations, durable copies, leases, replays and job history, all in PostgreSQL.

`Catalog` bundles one repository per aggregate over one database; `sql` and `migrations` lie beside them.
It never speaks to Redis or S3, and never decides what is due: it tells, and commits what it is told.
"""

from __future__ import annotations

from uuid import UUID

from sagaz_tiering.catalog.catching_up import CatchingUp, Scrubbing
from sagaz_tiering.catalog.dictionaries import CatalogDictionaries
from sagaz_tiering.catalog.durable import DurableCopies
from sagaz_tiering.catalog.erasures import Erasures
from sagaz_tiering.catalog.find import Find
from sagaz_tiering.catalog.history import Audit, History, Spending
from sagaz_tiering.catalog.holds import Holds
from sagaz_tiering.catalog.hot_saves import HotSaves, KnownHotTier
from sagaz_tiering.catalog.journal import Journal
from sagaz_tiering.catalog.leases import Leases
from sagaz_tiering.catalog.locations import Locations
from sagaz_tiering.catalog.mark import Ownership
from sagaz_tiering.catalog.packs import Packs
from sagaz_tiering.catalog.packs_anew import Compaction, Reindexed
from sagaz_tiering.catalog.quarantine import Quarantine
from sagaz_tiering.catalog.replays import Replays
from sagaz_tiering.catalog.restores import Restores
from sagaz_tiering.catalog.saga_keys import SagaKeys
from sagaz_tiering.catalog.sagas import Sagas
from sagaz_tiering.catalog.surveys import CatalogTotals, PackList, Surveys
from sagaz_tiering.drivers.postgresql.pool import Database
from sagaz_tiering.drivers.postgresql.queries import load

_SQL = load(__package__, "history")


class Catalog:
    """The repositories over one database; opens and closes nothing itself."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.history, self.audit, self.quarantine, self.spending = History(db), Audit(db), Quarantine(db), Spending(db)
        self.catching_up, self.scrubbing = CatchingUp(db), Scrubbing(db)
        self.compaction, self.reindexed = Compaction(db), Reindexed(db)
        self.dictionaries, self.saga_keys = CatalogDictionaries(db), SagaKeys(db)
        self.durable = DurableCopies(db)
        self.hot_saves, self.hot_tier = HotSaves(db), KnownHotTier(db)
        self.erasures, self.holds, self.restores = Erasures(db), Holds(db), Restores(db)
        self.find, self.locations, self.packs, self.sagas = Find(db), Locations(db), Packs(db), Sagas(db)
        self.journal, self.leases, self.ownership = Journal(db), Leases(db), Ownership(db)
        self.replays = Replays(db)
        self.surveys, self.totals, self.pack_list = Surveys(db), CatalogTotals(db), PackList(db)

    async def identity(self) -> UUID:
        """The id this catalog was born with; packs and the bucket's owner mark carry it."""
        return UUID(str(await self.db.fetchval(_SQL["catalog_id"])))

    async def take_identity(self, catalog_id: UUID) -> bool:
        """Become that catalog, for a rebuild; False for one that holds packs under another identity."""
        return await self.db.execute(_SQL["take_identity"], catalog_id) == 1
