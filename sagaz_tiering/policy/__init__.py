"""What should happen to a snapshot, and why: pure decisions, times in microseconds since 1970 UTC.

`PolicySet.decide(meta, saga, now_us)` is the whole of it. First match wins; a snapshot that no policy matches gets
`UNMATCHED`: kept hot and durable, never moved, expired only by its own `retention_until`. `saga` is where its saga ends
(`SagaEnd`): by that `outcome` and `attributes` are matched and `clock: saga_end` counts, so that all of a saga has one
answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache

from sagaz_tiering.attributes import SEPARATOR, tokens_of
from sagaz_tiering.config.patterns import ANY, Match, outcome_of
from sagaz_tiering.config.policy import (
    UNMATCHED,
    Durability,
    Move,
    Policy,
    name_problems,
)
from sagaz_tiering.config.schema import dotted
from sagaz_tiering.config.units import micros
from sagaz_tiering.errors import PolicyError
from sagaz_tiering.policy.decision import Decision
from sagaz_tiering.policy.rule import NOT_PROMISED, PolicyRule, SagaEnd, latest
from sagaz_tiering.snapshot import SnapshotMeta
from sagaz_tiering.storage_class import StorageClass

__all__ = [
    "NOT_PROMISED",
    "UNMATCHED",
    "Decision",
    "Durability",
    "Move",
    "Policy",
    "PolicySet",
    "SagaEnd",
    "latest",
]

_RUNNING_AT_MOST = Policy.model_fields["running_at_most"].default
_RETENTION_KEYS = {"match", "retain", "retention", "clock"}
MATCH_CACHE_SIZE = 32_768
"""Distinct (saga_name, step_name, status, outcome, attributes that rule) whose policy is remembered; far more than an
application has."""


class PolicySet:
    """The policies in force, in order. Immutable and safe to share; equal when the policies are.

    `before`: earlier rules that still keep what they promised (see `honouring`). `ruling_attributes`: the names of all
    attributes that some policy looks at, sorted. Raises PolicyError where two policies have one name.
    """

    def __init__(self, policies: Sequence[Policy], *, before: PolicySet | None = None) -> None:
        if clashes := list(name_problems(policies)):
            raise PolicyError("; ".join(f"{dotted(('policies', *where))}: {text}" for where, text in clashes))
        self.policies = tuple(policies)
        self.before = before
        matches = [policy.match for policy in self.policies]
        self.ruling_attributes = tuple(sorted({name for match in matches for name in match.attributes}))
        self._by_end = self.has_outcomes or bool(self.ruling_attributes)
        of_sagas = self._by_end or all(match.step_name == match.status == ANY for match in matches)
        self._rules = tuple(PolicyRule(policy, of_sagas=of_sagas) for policy in self.policies)
        self._unmatched = PolicyRule(UNMATCHED, of_sagas=of_sagas)
        self.revision = _digest(self.policies)
        """12 hex digits that change exactly when the content of the policies does, not with their layout."""
        self._retention_revision = _digest(self.policies, _RETENTION_KEYS)
        # Sagas, steps and statuses are few, snapshots are many: one dictionary look-up instead of patterns.
        self._find = lru_cache(maxsize=MATCH_CACHE_SIZE)(self._search)
        self._possible = lru_cache(maxsize=MATCH_CACHE_SIZE)(self._search_possible)
        self._hot_only = lru_cache(maxsize=MATCH_CACHE_SIZE)(self._search_hot_only)

    @property
    def retention_revision(self) -> str:
        """12 hex digits that change exactly when the policies may give a snapshot another expiry; two while `before`
        counts too."""
        if self.before is None:
            return self._retention_revision
        return f"{self._retention_revision}+{self.before.retention_revision}"

    @property
    def has_outcomes(self) -> bool:
        """Whether some policy rules sagas by how they end."""
        return any(policy.match.outcome != ANY for policy in self.policies)

    @property
    def first_after(self) -> timedelta | None:
        """The youngest age at which these policies move anything."""
        return min((policy.move[0].after for policy in self.policies if policy.move), default=None)

    @property
    def own(self) -> PolicySet:
        """These policies alone."""
        return self if self.before is None else PolicySet(self.policies)

    def honouring(self, before: PolicySet | None) -> PolicySet:
        """These policies, under which nothing expires before the rules of `before` let go of it.

        That is how rules count that `expire` has not accepted yet: a longer `retain` at once, a shorter one not.
        """
        if before is None or before.own.retention_revision == self._retention_revision:
            return self.own
        return PolicySet(self.policies, before=before.own)

    @property
    def retention_text(self) -> str:
        """What of the policies decides when a snapshot expires, as JSON; `of_retention_text` reads it."""
        keys = {"name", *_RETENTION_KEYS}
        return json.dumps([policy.model_dump(mode="json", include=keys) for policy in self.policies])

    @classmethod
    def of_retention_text(cls, text: str) -> PolicySet:
        """Policies that expire snapshots as those that wrote the text did, and move none. Raises PolicyError."""
        keys = {"name", *_RETENTION_KEYS}
        try:
            found = [{key: value for key, value in each.items() if key in keys} for each in json.loads(text)]
            return cls([Policy.model_validate(each) for each in found])
        except ValueError as exc:
            raise PolicyError(
                "the retention rules that the catalog remembers cannot be read by this version",
                hint="a newer version of sagaz-tiering accepted them; use that one",
            ) from exc

    def for_meta(self, meta: SnapshotMeta, saga: SagaEnd) -> Policy:
        """The policy of a snapshot: the first that matches, else UNMATCHED."""
        return self._rule(meta, saga).policy

    def policy_for(
        self, saga_name: str, step_name: str, status: str, outcome: str | None = None, attributes: str = ""
    ) -> Policy:
        """The policy of snapshots with these names, of a saga that ends so (None: so as they are): the first match."""
        return self._find(saga_name, step_name, status, outcome or outcome_of(status), self.ruling(attributes)).policy

    def ruling(self, attributes: str) -> str:
        """What of a column of attributes the policies look at, so that few columns differ."""
        names = self.ruling_attributes
        if not names or not attributes:
            return ""
        return SEPARATOR.join([one for one in tokens_of(attributes) if one.partition("=")[0] in names])

    def _rule(self, meta: SnapshotMeta, saga: SagaEnd) -> PolicyRule:
        ruling = self.ruling(saga.attributes) if saga.attributes else ""
        return self._find(meta.saga_name, meta.step_name, meta.status, outcome_of(saga.status), ruling)

    def named(self, policy_name: str) -> Policy | None:
        """The policy of that name (UNMATCHED included), or None where it is not configured (any more)."""
        return next((p for p in (*self.policies, UNMATCHED) if p.name == policy_name), None)

    def dates(self, meta: SnapshotMeta, saga: SagaEnd) -> tuple[Policy, int | None, int | None]:
        """Its policy, when its first move is due and when it expires: what `decide` says whatever the time is."""
        rule = self._rule(meta, saga)
        expires_us = rule.expires_us(meta, saga)
        if self.before is not None:
            expires_us = latest(expires_us, self.before.expires_us(meta, saga))
        return rule.policy, rule.due_us(meta, saga), expires_us

    def decide(self, meta: SnapshotMeta, saga: SagaEnd, now_us: int) -> Decision:
        """What should be true of the snapshot at `now_us`; an instant counts as passed when it is reached."""
        rule = self._rule(meta, saga)
        expires_us = rule.expires_us(meta, saga)
        due_us = rule.due_us(meta, saga)
        kept_by = None
        if self.before is not None and expires_us is not None:
            earlier_us = self.before.expires_us(meta, saga)
            if earlier_us is None or earlier_us > expires_us:
                expires_us, kept_by = earlier_us, self.before.retention_revision
        return Decision(
            policy=rule.policy.name,
            clock_us=rule.clock_us(meta, saga),
            expires_us=expires_us,
            expired=expires_us is not None and now_us >= expires_us,
            due_us=due_us,
            due=due_us is not None and now_us >= due_us,
            rule=rule.policy,
            retention_us=meta.retention_us,
            outcome=saga.outcome,
            kept_by=kept_by,
            promised_us=saga.kept_us,
        )

    def expires_us(self, meta: SnapshotMeta, saga: SagaEnd) -> int | None:
        """When the snapshot stops existing; None: never.

        By the policy's `retention`: clock + `retain`, the snapshot's own retention_until, or (usually) the later one.
        Not before what its saga was promised when part of it was archived, unless `retention: policy` says otherwise.
        """
        expires_us = self._rule(meta, saga).expires_us(meta, saga)
        return expires_us if self.before is None else latest(expires_us, self.before.expires_us(meta, saga))

    def expires_not_before_us(self, meta: SnapshotMeta, saga: SagaEnd) -> int | None:
        """The earliest that the snapshot may expire, of a saga that ends there or later, in any way; None: never."""
        found = None
        for rule in self._possible(meta.saga_name, meta.step_name, meta.status):
            expires_us = rule.expires_us(meta, saga)
            if expires_us is not None and (found is None or expires_us < found):
                found = expires_us
        return found if self.before is None else latest(found, self.before.expires_not_before_us(meta, saga))

    def expires_at_least_us(
        self, meta: SnapshotMeta, saga: SagaEnd, recorded_us: int | None, dated: tuple[str, str] | None = None
    ) -> int | None:
        """When an archived snapshot expires whose own date is not known here, but what was recorded by these policies.

        The later of that, of what the policies say of its saga today and of what that was promised; under
        `retention: policy` what the policy says, under `retention: snapshot` what was recorded. `dated`: the retention
        revision and the policy that recorded it, which alone knew when the snapshot was saved.
        """
        rule = self._rule(meta, saga)
        if rule.by_snapshot_alone or (dated == (self._retention_revision, rule.policy.name) and self._is_exact(rule)):
            found = recorded_us
        elif rule.by_policy_alone:
            found = rule.at_least_us(meta, saga)
        else:
            found = latest(recorded_us, rule.at_least_us(meta, saga))
            found = latest(found, saga.kept_us) if rule.keeps_promises else found
        if self.before is None:
            return found
        return latest(found, self.before.expires_at_least_us(meta, saga, recorded_us, dated))

    def _is_exact(self, rule: PolicyRule) -> bool:
        """Whether what a rule by the time of the save recorded stays. Where the policy alone counts and sagas go from
        rule to rule, another one may have recorded less since."""
        return rule.by_save and not (rule.by_policy_alone and self._by_end)

    def promise_us(self, meta: SnapshotMeta, saga: SagaEnd) -> int | None:
        """Until when a saga is kept of which that is archived (None: for ever, NOT_PROMISED: nothing says so).

        What the policies say of it today and, where that changes with its outcome, what was promised.
        """
        rule = self._rule(meta, saga)
        found = rule.at_least_us(meta, saga)
        if rule.keeps_promises:
            found = latest(found, saga.kept_us)
        return found if self.before is None else latest(found, self.before.promise_us(meta, saga))

    def may_be_hot_only(self, saga_name: str | None) -> bool:
        """Whether a snapshot of that saga name (None: of any) can be acknowledged with Redis alone.

        Only policies that some snapshot can reach count; where that is not provable they count as reachable.
        """
        return self._hot_only(saga_name)

    def class_at(self, policy_name: str, clock_us: int, now_us: int) -> StorageClass | None:
        """The class that data of that policy and clock time should be in by now.

        None: no move is due yet, or no policy has that name (any more), so data already packed stays where
        it is.
        """
        policy = self.named(policy_name)
        moves = () if policy is None else policy.move
        due = [move.to for move in moves if clock_us + micros(move.after) <= now_us]
        return due[-1] if due else None

    def _search(self, saga_name: str, step_name: str, status: str, outcome: str, attributes: str) -> PolicyRule:
        for rule in self._rules:
            if rule.has_names(saga_name, step_name, status) and rule.has_end(outcome, attributes):
                return rule
        return self._unmatched

    def _search_possible(self, saga_name: str, step_name: str, status: str) -> tuple[PolicyRule, ...]:
        """Those of which one rules such snapshots, whichever way their saga ends."""
        found = []
        for rule in self._rules:
            if rule.has_names(saga_name, step_name, status):
                found.append(rule)
                if rule.policy.match.outcome == ANY and not rule.policy.match.attributes:
                    return tuple(found)
        return (*found, self._unmatched)

    def _search_hot_only(self, saga_name: str | None) -> bool:
        above: list[Match] = []
        for rule in self._rules:
            match = rule.policy.match
            if saga_name is not None:
                if not rule.has_saga_name(saga_name):
                    continue
                match = match.model_copy(update={"saga_name": ANY})
            reachable = not any(earlier.covers(match) for earlier in above)
            if reachable and rule.policy.durability is Durability.HOT:
                return True
            above.append(match)
        return False

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PolicySet):
            return NotImplemented
        return self.policies == other.policies and self.before == other.before

    def __hash__(self) -> int:
        return hash(self.revision)

    def __repr__(self) -> str:
        return f"PolicySet({[policy.name for policy in self.policies]}, revision={self.revision!r})"


def _digest(policies: Sequence[Policy], keys: set[str] | None = None) -> str:
    texts = [policy.model_dump(mode="json", include=keys) for policy in policies]
    for policy, text in zip(policies, texts, strict=True):
        # As before there were such keys: an update of this package changes no revision.
        if policy.retention == "longest":
            text.pop("retention", None)
        if policy.match.outcome == ANY and "match" in text:
            text["match"].pop("outcome")
        if policy.running_at_most == _RUNNING_AT_MOST:
            text.pop("running_at_most", None)
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:12]
