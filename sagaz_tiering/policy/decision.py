"""What a policy says of one snapshot at one instant, and the sentence that explains it."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sagaz_tiering.clock import from_micros, to_micros
from sagaz_tiering.config.patterns import ANY, RUNNING
from sagaz_tiering.config.policy import UNMATCHED, Policy
from sagaz_tiering.config.units import format_duration, micros
from sagaz_tiering.policy.rule import NOT_PROMISED

_PROMISED = "as its saga was promised when part of it was packed, later than these policies say"


class Decision(NamedTuple):
    """What the policy says about one snapshot at one instant. Times are microseconds since 1970 UTC.

    `expires_us` is when it stops existing (None: never), `due_us` when its first move off the hot tier is due
    (None: never), counted from `clock_us` by the rule that matches it and the `outcome` of its saga.
    `due` looks at age only: an expired snapshot may be due too, so ask `expired` first. `kept_by`: the revision of
    earlier rules that keep it longer than these do (see `PolicySet.honouring`). `promised_us`: until when its saga was
    promised to be kept (`SagaEnd.kept_us`). `is_recorded`: the expiry is the one that was noted when it was packed.
    """

    policy: str
    clock_us: int
    expires_us: int | None
    expired: bool
    due_us: int | None
    due: bool
    rule: Policy
    retention_us: int | None
    outcome: str
    kept_by: str | None = None
    promised_us: int | None = NOT_PROMISED
    is_recorded: bool = False

    def recorded_as(self, expires_at: datetime | None, now_us: int) -> Decision:
        """The same of a copy that expires at that time: what is recorded of an archived one counts too."""
        expires_us = None if expires_at is None else to_micros(expires_at)
        if expires_us == self.expires_us:
            return self
        expired = expires_us is not None and now_us >= expires_us
        return self._replace(expires_us=expires_us, expired=expired, is_recorded=True)

    @property
    def reason(self) -> str:
        """One English sentence: which policy, what next and when, and what decides the expiry."""
        if self.expired:
            return f"{self.who}: expired at {self._expiry()}."
        return f"{self.who}: {self._move()}, and {self.end}."

    @property
    def who(self) -> str:
        """Which policy rules it, and by what of its saga as a whole if that counts; as the beginning of a sentence."""
        if self.rule is UNMATCHED:
            return "no policy matches"
        match = self.rule.match
        whole = [] if match.outcome == ANY else [self._ended]
        whole += [f"its newest snapshot has {name} {' or '.join(each)}" for name, each in match.attributes.items()]
        why = f" ({', '.join(whole)})" if whole else ""
        return f"policy {self.policy!r}{why} matches"

    @property
    def _ended(self) -> str:
        if self.outcome == RUNNING:
            return "no end of the saga was recorded, so it counts as running"
        return f"the saga is {self.outcome}"

    @property
    def is_promised(self) -> bool:
        """Whether it is kept by what its saga was promised earlier, longer than these policies say."""
        if self.is_recorded:
            return True
        if self.kept_by is not None or self.expires_us != self.promised_us:
            return False
        lifetime, own_us = self.rule.lifetime, self.retention_us if self.rule.asks_snapshot else None
        if self.expires_us is None:
            return not self.rule.is_for_ever and (lifetime is not None or own_us is not None)
        return (lifetime is None or self.expires_us != self.clock_us + micros(lifetime)) and self.expires_us != own_us

    def _move(self) -> str:
        if self.due_us is None:
            return "it never leaves the hot tier"
        first = self.rule.move[0]
        why = f"{format_duration(first.after)} after {self._clock}"
        if self.due_us < self.clock_us + micros(first.after):
            why = f"it is {format_duration(self.rule.running_at_most)} old then, and its saga is running still"
        when = f"{_instant(self.due_us)} ({why})"
        return (
            f"due for {first.to} since {when}" if self.due else f"it stays hot until {when}, then moves to {first.to}"
        )

    @property
    def _clock(self) -> str:
        return "the end of its saga" if self.rule.clock == "saga_end" else str(self.rule.clock)

    @property
    def end(self) -> str:
        """When and why it expires, as the end of a sentence."""
        if self.expires_us is not None:
            return f"it expires at {self._expiry()}"
        if self.kept_by is not None:
            return f"it does not expire {self._until_accepted}"
        if self.is_promised:
            return f"it never expires: {_PROMISED}"
        return f"it never expires{': the policy retains it forever' if self.rule.is_for_ever else ''}"

    @property
    def _until_accepted(self) -> str:
        return (
            f"until `expire` has accepted these policies: those before them (retention {self.kept_by}) keep it longer"
        )

    def _expiry(self) -> str:
        lifetime, rule = self.rule.lifetime, self.rule
        if self.is_promised:
            why = _PROMISED
        elif self.kept_by is not None:
            why = f"not earlier {self._until_accepted}"
        elif lifetime is None:
            why = "its own retention_until"
        elif self.expires_us == self.clock_us + micros(lifetime):
            why = f"the policy retains it {format_duration(lifetime)} after {self._clock}"
            if rule.retention == "policy" and self.retention_us is not None:
                why += ", whatever its own retention_until says"
        else:
            policy_says = f"{format_duration(lifetime)} after {self._clock}"
            why = f"its own retention_until, later than the policy's {policy_says}"
        return f"{_instant(self.expires_us or 0)}: {why}"


def _instant(micros_utc: int) -> str:
    moment = from_micros(micros_utc)
    return moment.isoformat(timespec="microseconds" if moment.microsecond else "seconds").replace("+00:00", "Z")
