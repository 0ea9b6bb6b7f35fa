"""The open tiers of a process and what is in force there as one value: given to the facade, to jobs and operations.

`app` makes both, and closes what is open. It never asks a server, and decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from sagaz_tiering.attributes import Attribute, Attributes
from sagaz_tiering.catalog import Catalog
from sagaz_tiering.clock import Clock
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.config.patterns import Match, matcher
from sagaz_tiering.config.sections import rule_problem
from sagaz_tiering.costs.prices import PriceList
from sagaz_tiering.dictionaries.cache import Dictionaries
from sagaz_tiering.errors import ConfigError
from sagaz_tiering.hot.incarnation import Incarnation
from sagaz_tiering.hot.tier import HotTier
from sagaz_tiering.keys.keyring import Keyring
from sagaz_tiering.objects.base import ObjectStore
from sagaz_tiering.policy import PolicySet


@dataclass(slots=True, kw_only=True)
class InForce:
    """The settings that count now, with their policies and attributes: who holds it sees all replaced by a reload."""

    settings: TieringConfig
    policies: PolicySet
    attributes: Attributes

    @classmethod
    def of(cls, settings: TieringConfig) -> Self:
        """These settings with their own policies."""
        return cls(settings=settings, policies=PolicySet(settings.policies), attributes=attributes_of(settings))

    def adopt(self, settings: TieringConfig) -> None:
        """Count by these from now on; servers stay the ones that are open."""
        self.settings, self.policies = settings, PolicySet(settings.policies)
        self.attributes = attributes_of(settings)

    def check_match(self, match: Match | None) -> None:
        """Raise ConfigError where a match looks at an attribute that is not defined, or whose values do not show."""
        for name in {} if match is None else match.attributes:
            why = rule_problem(name, self.settings.attributes)
            if why is not None:
                raise ConfigError(why, hint="see the section `attributes` of the configuration")


@dataclass(slots=True, kw_only=True, eq=False)
class Tiers:
    """What is open, and what is in force. Whoever opened it closes it."""

    hot: HotTier
    incarnation: Incarnation
    catalog: Catalog
    objects: ObjectStore
    keys: Keyring
    dictionaries: Dictionaries
    prices: PriceList
    clock: Clock
    in_force: InForce

    @property
    def policies(self) -> PolicySet:
        """The policies in force."""
        return self.in_force.policies

    @property
    def settings(self) -> TieringConfig:
        """The settings in force."""
        return self.in_force.settings


def attributes_of(settings: TieringConfig) -> Attributes:
    """The attributes of a configuration, as saves and searches use them."""
    key = None if settings.attribute_hash_key is None else settings.attribute_hash_key.get_secret_value().encode()
    return Attributes(
        [
            Attribute(
                name=each.name,
                path=tuple(each.path.split(".")),
                of_saga=matcher(each.saga_name),
                hash_key=key if each.hashed else None,
            )
            for each in settings.attributes
        ]
    )
