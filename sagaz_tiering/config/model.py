"""The whole configuration: one YAML file, environment variables on top, checked before anything starts.

Secrets are `SecretStr` or `SecretUrl`: never in `repr`, `str` or a JSON dump.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr, field_validator, model_validator

from sagaz_tiering.config.policy import UNMATCHED, Durability, Policy, name_problems
from sagaz_tiering.config.schedule import Schedule
from sagaz_tiering.config.schema import Location, StrictModel, refusal
from sagaz_tiering.config.sections import (
    AttributeSettings,
    BudgetSettings,
    CatalogSettings,
    ConsoleSettings,
    DaemonSettings,
    DictionarySettings,
    EmbeddedSettings,
    EncryptionSettings,
    JobSettings,
    LimitSettings,
    LogSettings,
    RestoreSettings,
    attribute_problems,
)
from sagaz_tiering.config.tiers import TierSettings
from sagaz_tiering.config.urls import EMBEDDED, database_identity


class TieringConfig(StrictModel):
    """The checked configuration: a plain value, the same whatever the environment holds, and never changed.

    `config.load.load_config` makes one of a file and an environment.
    """

    tiers: TierSettings
    """Where snapshots live."""
    catalog: CatalogSettings
    """Where the catalog is."""
    policies: tuple[Policy, ...] = ()
    """What happens to which snapshots, first match wins; what none matches stays hot and durable for ever."""
    attributes: tuple[AttributeSettings, ...] = ()
    """What sagas can be found and ruled by, beside their names (docs/attributes.md); upgrade all applications first."""
    attribute_hash_key: SecretStr | None = None
    """Key of `hashed` attributes, at least 32 bytes; whoever changes it finds only what is saved from then on."""
    schedule: Schedule = Schedule()
    """When the daemon runs its jobs."""
    limits: LimitSettings = LimitSettings()
    """What is refused."""
    jobs: JobSettings = JobSettings()
    """How jobs work."""
    dictionaries: DictionarySettings = DictionarySettings()
    """Compression dictionaries."""
    budget: BudgetSettings = BudgetSettings()
    """What the jobs may spend."""
    restore: RestoreSettings = RestoreSettings()
    """How archived snapshots come back."""
    encryption: EncryptionSettings | None = None
    """The master key of encrypted policies; absent: none."""
    daemon: DaemonSettings = DaemonSettings()
    """The daemon's HTTP server and its end."""
    console: ConsoleSettings = ConsoleSettings()
    """The console in a browser."""
    log: LogSettings = LogSettings()
    """Logging."""
    embedded: EmbeddedSettings | None = None
    """Servers to start with the process; absent: none."""

    @model_validator(mode="before")
    @classmethod
    def _durable_is_catalog(cls, values: Any) -> Any:
        """Fill in `tiers.durable.url`, so that nobody has to ask twice where the durable copy is."""
        tiers, catalog = values.get("tiers"), values.get("catalog")
        if not isinstance(tiers, Mapping) or not isinstance(catalog, Mapping) or "url" not in catalog:
            return values
        durable = tiers.get("durable", {})
        if isinstance(durable, Mapping) and "url" not in durable:
            return {**values, "tiers": {**tiers, "durable": {**durable, "url": catalog["url"]}}}
        return values

    @field_validator("policies")
    @classmethod
    def _check_names(cls, policies: tuple[Policy, ...]) -> tuple[Policy, ...]:
        if clashes := list(name_problems(policies)):
            raise refusal("policies", clashes)
        return policies

    def _problems(self) -> Iterator[tuple[Location, str]]:
        yield from self._durable_problems()
        yield from self._embedded_problems()
        yield from self._encryption_problems()
        yield from attribute_problems(self.attributes, self.attribute_hash_key, self.policies)

    def _durable_problems(self) -> Iterator[tuple[Location, str]]:
        durable = self.tiers.durable
        if durable is not None:
            if database_identity(durable.url) != database_identity(self.catalog.url):
                yield (
                    ("tiers", "durable", "url"),
                    "is not the same as catalog.url, but durable copies and their locations change in one "
                    "transaction; remove it to use the catalog's database",
                )
            return
        advice = "tiers.durable is null; write durability: hot, or remove tiers.durable to use the catalog's database"
        for i, policy in enumerate(self.policies):
            if policy.durability is Durability.DURABLE:
                yield (("policies", i, "durability"), f"policy {policy.name!r} needs the durable tier, but {advice}")
        if not any(policy.match.is_catch_all for policy in self.policies):
            yield (
                ("tiers", "durable"),
                f"is null, but snapshots that no policy matches are {UNMATCHED.durability}; end the policies "
                "with one that has match: {} and durability: hot",
            )

    def _encryption_problems(self) -> Iterator[tuple[Location, str]]:
        for i, policy in enumerate(self.policies if self.encryption is None else ()):
            if policy.encryption != "none":
                needed = "a section encryption: {key_file: PATH} or {kms_key_id: ID}"
                yield ("policies", i, "encryption"), f"policy {policy.name!r} needs {needed}"

    def _embedded_problems(self) -> Iterator[tuple[Location, str]]:
        for server, location in self._embedded_urls():
            if self.embedded is None:
                needed = "a section embedded: {data_dir: DIRECTORY}; add it, or write a URL"
                yield location, f"{EMBEDDED!r} needs {needed}"
            elif not getattr(self.embedded, server):
                yield location, f"{EMBEDDED!r} contradicts embedded.{server}: false; set it to true, or write a URL"

    def _embedded_urls(self) -> Iterator[tuple[str, Location]]:
        durable = self.tiers.durable
        if self.tiers.hot.url.is_embedded:
            yield "redis", ("tiers", "hot", "url")
        if self.catalog.url.is_embedded:
            yield "postgres", ("catalog", "url")
        elif durable is not None and durable.url.is_embedded:
            yield "postgres", ("tiers", "durable", "url")
        if self.tiers.cold.is_embedded:
            yield "s3", ("tiers", "cold", "endpoint_url")

    @property
    def embedded_servers(self) -> frozenset[str]:
        """The embedded servers that some URL asks for: of `postgres`, `redis`, `s3`."""
        return frozenset(server for server, _ in self._embedded_urls())

    def with_settings(self, changes: Mapping[str, Any]) -> TieringConfig:
        """The same but for some settings, by their names (`tiers.cold.pack.target`); they are not checked."""
        found = self
        for name, value in changes.items():
            found = _with_setting(found, name.split("."), value)
        return found

    def anchored_at(self, directory: Path) -> TieringConfig:
        """The same with relative paths starting at `directory`: data_dir, key_file, a `file://` cold tier."""
        changes: dict[str, Any] = {}
        if self.embedded is not None:
            changes["embedded.data_dir"] = _absolute(directory, self.embedded.data_dir)
        if self.encryption is not None and self.encryption.key_file is not None:
            changes["encryption.key_file"] = _absolute(directory, self.encryption.key_file)
        if self.tiers.cold.is_directory:
            changes["tiers.cold.url"] = _absolute(directory, self.tiers.cold.directory).as_uri()
        return self.with_settings(changes)


def _with_setting(section: Any, name: Sequence[str], value: Any) -> Any:
    key, *inside = name
    return section.model_copy(update={key: _with_setting(getattr(section, key), inside, value) if inside else value})


def _absolute(directory: Path, path: Path) -> Path:
    # Not resolve(): a mounted configuration file is often a symbolic link, and the place it is seen at counts.
    return Path(os.path.abspath(directory / path))
