"""Attributes of snapshots: read once as one is saved, and looked up where a match names some."""

from __future__ import annotations

from sagaz_tiering import metrics
from sagaz_tiering.config.patterns import Match
from sagaz_tiering.config.sections import rule_problem
from sagaz_tiering.errors import ConfigError
from sagaz_tiering.logs import Logger, Repeated
from sagaz_tiering.snapshot import SagaSnapshot
from sagaz_tiering.tiers import InForce

_log = Logger(__name__)


class AttributeReader:
    """Reads the attributes in force of snapshots, for one storage."""

    def __init__(self, in_force: InForce) -> None:
        self._in_force = in_force
        self._told = Repeated()

    def column(self, snapshot: SagaSnapshot) -> str:
        """The column of the attributes of a snapshot. Nothing in a context makes it fail."""
        found = self._in_force.attributes.of(snapshot.saga_name, snapshot.context)
        for attribute, reason in found.left_out:
            metrics.ATTRIBUTES_LEFT_OUT.labels(attribute=attribute, reason=reason).inc()
            times = self._told.due((attribute, reason))
            if times is not None:
                _log.warning(
                    "attribute.left_out",
                    attribute=attribute,
                    reason=reason,
                    snapshot_id=str(snapshot.snapshot_id),
                    saga_id=str(snapshot.saga_id),
                    hint="the snapshot is saved, but not found by these values; see the limits of attributes",
                    **times,
                )
        return found.column


def check_match(match: Match | None, in_force: InForce) -> None:
    """Raise ConfigError where a match looks at an attribute that is not defined, or whose values do not show."""
    for name in {} if match is None else match.attributes:
        why = rule_problem(name, in_force.settings.attributes)
        if why is not None:
            raise ConfigError(why, hint="see the section `attributes` of the configuration")
