"""The store's totals in the metrics, looked at now and then, never for a scrape; and each hour's row of the history."""

from __future__ import annotations

import math
from datetime import datetime

from sagaz_tiering import metrics
from sagaz_tiering.attributes import MAX_VALUES, TOO_MANY
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.errors import SagazTieringError
from sagaz_tiering.jobs import JobContext
from sagaz_tiering.logs import Logger
from sagaz_tiering.operations.status import StoreTotals, note_hour, take_stock

_log = Logger(__name__)
LOOK_EVERY_S = 30.0


class TotalsKeeper:
    """Looks, tells the metrics, and writes the history when an hour is over."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._noted: datetime | None = None
        self._many_values: dict[str, int] = {}

    async def look(self) -> None:
        """One look. A server that is away is told by its pings; what it said last stays."""
        try:
            await self.once()
        except SagazTieringError as exc:
            _log.info("totals.not_looked_at", error=str(exc))

    async def once(self) -> None:
        """One look. Raises CatalogUnavailable."""
        totals = await take_stock(self._context)
        tell(totals, self._context.settings)
        self._tell_many_values(totals)
        hour = totals.at.replace(minute=0, second=0, microsecond=0)
        if hour != self._noted:
            await note_hour(self._context, totals)
            self._noted = hour

    def _tell_many_values(self, totals: StoreTotals) -> None:
        """Once for each number."""
        before, self._many_values = self._many_values, {}
        for each in totals.open_work:
            if each.what == "many_values":
                self._many_values[each.kind] = each.number or 0
                if self._many_values[each.kind] > before.get(each.kind, 0):
                    _log.warning(
                        "attribute.left_out",
                        attribute=each.kind,
                        reason=TOO_MANY,
                        sagas=each.number,
                        hint=f"these sagas are found by {MAX_VALUES} of their values; see the limits of attributes",
                    )


def tell(totals: StoreTotals, settings: TieringConfig) -> None:
    """Put it into the metrics; a class, kind or state that is gone is gone there too."""
    _tell_holdings(totals, settings.tiers.cold.pack.target)
    _tell_hot(totals)
    _tell_open_work(totals)
    budget = settings.budget
    metrics.SPENT_TODAY_USD.set(sum(each.usd for each in totals.spent_today))
    metrics.SPENT_TODAY_REQUESTS.set(sum(each.requests for each in totals.spent_today))
    metrics.BUDGET_USD.set(math.inf if budget.usd_per_day is None else budget.usd_per_day)
    metrics.BUDGET_REQUESTS.set(math.inf if budget.requests_per_day is None else budget.requests_per_day)
    metrics.TOTALS_AT.set(totals.at.timestamp())


def _tell_holdings(totals: StoreTotals, target: int) -> None:
    told = (
        (metrics.STORED_SNAPSHOTS, "snapshots"),
        (metrics.STORED_PACKS, "packs"),
        (metrics.STORED_BYTES, "bytes"),
        (metrics.STORED_USD, "usd_per_month"),
    )
    for gauge, name in told:
        gauge.clear()
        for held in totals.holdings:
            if (value := getattr(held, name)) is not None:
                gauge.labels(tier=held.tier, storage_class=held.storage_class).set(value)
    for gauge in (metrics.PACK_FILL, metrics.PACK_LIVE, metrics.PACKS_UNDERSIZED):
        gauge.clear()
    for cold in (each for each in totals.cold if not each.retiring):
        label = {"storage_class": cold.storage_class.value}
        metrics.PACK_FILL.labels(**label).set(cold.bytes / cold.packs / target)
        metrics.PACK_LIVE.labels(**label).set(cold.snapshots / max(cold.packed, 1))
        metrics.PACKS_UNDERSIZED.labels(**label).set(cold.undersized)
    metrics.LAST_ARCHIVED.set(max((each.newest_at.timestamp() for each in totals.cold), default=0))


def _tell_hot(totals: StoreTotals) -> None:
    hot = totals.hot
    if hot is None:  # what it said last stays; `sagaz_tiering_server_up` tells
        return
    metrics.HOT_MEMORY.set(hot.memory)
    metrics.HOT_MEMORY_LIMIT.set(hot.limit or math.inf)
    metrics.LAG_SECONDS.labels(tier="hot").set(_age(totals, hot.due_since))
    for queue, length in (("hot_due", hot.sagas_due), ("hot_waiting", hot.sagas_waiting), ("hot_untold", hot.untold)):
        metrics.QUEUE_LENGTH.labels(queue=queue).set(length)


def _tell_open_work(totals: StoreTotals) -> None:
    for gauge in (metrics.QUARANTINED, metrics.RESTORES, metrics.SAGAS_OF_MANY_VALUES):
        gauge.clear()
    metrics.RESTORE_OLDEST.set(0)
    metrics.QUEUE_LENGTH.labels(queue="durable_due").set(totals.durable.due)
    queues = {"journal": "journal", "erasure": "erasure_packs", "changed_saga": "changed_sagas"}
    for each in totals.open_work:
        number, state = each.number or 0, each.state.lower()
        if each.what == "quarantine":
            metrics.QUARANTINED.labels(kind=each.kind, state=state).set(number)
        elif each.what == "restore":
            metrics.RESTORES.labels(state=state).set(number)
            if each.state == "RESTORING":
                metrics.RESTORE_OLDEST.set(_age(totals, each.since))
        elif each.what == "late_restore":
            metrics.RESTORE_LATE.set(_age(totals, each.since))
        elif each.what == "many_values":
            metrics.SAGAS_OF_MANY_VALUES.labels(attribute=each.kind).set(number)
        elif each.what == "hold":
            metrics.HOLDS.set(number)
        elif each.what == "due":
            metrics.LAG_SECONDS.labels(tier="durable").set(_age(totals, each.since))
        else:
            metrics.QUEUE_LENGTH.labels(queue=queues[each.what]).set(number)


def _age(totals: StoreTotals, since: datetime | None) -> float:
    return 0.0 if since is None else (totals.at - since).total_seconds()
