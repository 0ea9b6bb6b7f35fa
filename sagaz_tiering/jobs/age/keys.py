"""The data keys that a run of `age` encrypts with. Without a master key it packs what needs none, and then fails."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from uuid import UUID

from sagaz_tiering.config.policy import FrameEncryption
from sagaz_tiering.errors import MasterKeyUnavailable
from sagaz_tiering.jobs.context import JobContext
from sagaz_tiering.keys.frame_key import FrameKey
from sagaz_tiering.logs import Logger
from sagaz_tiering.policy import Policy

_log = Logger(__name__)
_NONE: Mapping[UUID, FrameKey] = MappingProxyType({})

REQUEUE_AFTER_US = 15 * 60 * 1_000_000
"""After so long a saga whose key could not be had is looked at again; longer than a run takes to see them all."""


def needs_key(policy: Policy) -> bool:
    """Whether frames of that policy are encrypted."""
    return policy.encryption is FrameEncryption.PER_SAGA


class RunKeys:
    """Data keys of one run, and why some could not be had."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._error: MasterKeyUnavailable | None = None
        self.needed = any(map(needs_key, context.policies.policies))
        """Whether any policy encrypts."""
        self.failed = False
        """Whether the master key is not there: nothing more is asked of it in this run."""

    async def begin(self) -> None:
        """See whether the master key works, if a policy needs one: what cannot be packed need not be read then."""
        if self.needed:
            await self._check_master()

    async def of(self, saga_ids: Collection[UUID]) -> Mapping[UUID, FrameKey]:
        """Keys of these sagas; of those that are left out the snapshots must stay."""
        if not saga_ids or self.failed:
            return _NONE
        try:
            return await self._for_writing(saga_ids)
        except MasterKeyUnavailable as exc:
            self._note(exc)
        await self._check_master()
        return _NONE if self.failed else await self._one_by_one(saga_ids)

    def check(self) -> None:
        """At the end of a run: raise MasterKeyUnavailable if snapshots stayed because of it."""
        if self._error is not None:
            raise MasterKeyUnavailable(
                f"policies with `encryption: per-saga` were not aged, nothing of them left its tier: {self._error}"
                if self.failed
                else f"some encrypted sagas were not aged: {self._error}",
                hint=self._error.hint,
            ) from self._error

    async def _one_by_one(self, saga_ids: Collection[UUID]) -> dict[UUID, FrameKey]:
        """The current master key works, so a saga whose own key does not open keeps no other waiting."""
        found: dict[UUID, FrameKey] = {}
        for saga_id in saga_ids:
            try:
                found |= await self._for_writing([saga_id])
            except MasterKeyUnavailable as exc:
                self._note(exc)
        return found

    async def _for_writing(self, saga_ids: Collection[UUID]) -> dict[UUID, FrameKey]:
        return await self._context.keys.for_writing(saga_ids, self._context.now)

    async def _check_master(self) -> None:
        try:
            await self._context.keys.check()
        except MasterKeyUnavailable as exc:
            self._note(exc)
            self.failed = True

    def _note(self, exc: MasterKeyUnavailable) -> None:
        _log.error("master_key.unavailable", error=str(exc), hint=exc.hint)
        self._error = exc


class DryRunKeys(RunKeys):
    """A dry run makes no keys, and its packs are as large as those of a run."""

    async def _for_writing(self, saga_ids: Collection[UUID]) -> dict[UUID, FrameKey]:
        return await self._context.keys.for_trial(saga_ids)
