"""Asking for archived snapshots to come back."""

from __future__ import annotations

from sagaz_tiering.catalog.restores import Restore, Wanted
from sagaz_tiering.config.sections import OnArchived
from sagaz_tiering.errors import ConfigError, SnapshotArchived
from sagaz_tiering.tiered.attributes import check_match
from sagaz_tiering.tiers import InForce, Tiers

INTO = ("hot", "in-place")


class Restorer:
    """Requests restores with the configured defaults; `met` does so where a read meets archived bytes."""

    def __init__(self, tiers: Tiers, in_force: InForce) -> None:
        self._tiers = tiers
        self._in_force = in_force

    async def request(
        self, wanted: Wanted, *, tier: str | None = None, days: int | None = None, into: str = "hot", who: str
    ) -> Restore | None:
        """The request (a new one, or the same that is under way); None where nothing is archived."""
        if into not in INTO:
            raise ConfigError(f"into={into!r} is not a place to restore into", hint=f"one of {', '.join(INTO)}")
        check_match(wanted.match, self._in_force)
        usual = self._in_force.settings.restore
        return await self._tiers.catalog.restores.request(
            wanted,
            retrieval=usual.tier.value if tier is None else tier,
            days=usual.days if days is None else days,
            into_hot=into == "hot",
            who=who,
            now=self._tiers.clock.now(),
            prices=self._tiers.prices,
        )

    async def met(self, archived: SnapshotArchived) -> None:
        """A read met this: with `on_archived: request` the restore is asked for, and the error tells its id."""
        if self._in_force.settings.restore.on_archived is OnArchived.REQUEST:
            asked = await self.request(Wanted(snapshot_ids=archived.snapshot_ids), who="on_archived: request")
            archived.restore_id = None if asked is None else asked.restore_id
