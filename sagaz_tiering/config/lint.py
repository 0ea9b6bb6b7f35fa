"""What is allowed in the settings but probably not meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sagaz_tiering.config.environment import variable_for
from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.config.patterns import patterns_cover
from sagaz_tiering.config.schema import Location
from sagaz_tiering.config.urls import has_password

_OF_DIRECTORIES = {"url", "request_timeout", "pack"}
"""What a file:// cold tier uses; all else is for S3."""


def settings_warnings(config: TieringConfig, in_file: Callable[[Location], bool]) -> Iterator[tuple[Location, str]]:
    """Every warning about the settings; `in_file` tells whether a value comes from the file."""
    cold = config.tiers.cold
    if cold.is_directory:
        for key in type(cold).model_fields:
            if key in cold.model_fields_set - _OF_DIRECTORIES:
                yield ("tiers", "cold", key), "is not used by a file:// cold tier; remove it, or write an s3:// url"
    # A variable that names a server of one's own for a while takes nothing away from a file that says embedded.
    of_file = in_file(("tiers", "hot", "url")) and in_file(("catalog", "url"))
    if config.embedded is not None and not config.embedded_servers and of_file:
        yield ("embedded",), "starts nothing, since no url says embedded; remove it, or write embedded for a url"
    yield from _attribute_warnings(config)
    if config.attribute_hash_key is not None and not any(attribute.hashed for attribute in config.attributes):
        yield ("attribute_hash_key",), "is not used, since no attribute is hashed; remove it, or write hashed: true"
    for location in _secrets(config):
        if in_file(location):
            yield location, f"is a secret in the file; set {variable_for(location)} in the environment instead"


def _attribute_warnings(config: TieringConfig) -> Iterator[tuple[Location, str]]:
    """Rules by attributes that not all of the sagas which the rule names have."""
    patterns = {attribute.name: attribute.saga_name for attribute in config.attributes}
    for i, policy in enumerate(config.policies):
        for name in policy.match.attributes:
            if not patterns_cover(patterns[name], policy.match.saga_name):
                yield (
                    ("policies", i, "match", "attributes", name),
                    f"attribute {name!r} is that of saga_name {' or '.join(patterns[name])} alone, so no other saga "
                    f"matches; name them in the match of {policy.name!r} too, or let others have the attribute",
                )


def _secrets(config: TieringConfig) -> Iterator[Location]:
    if config.tiers.cold.secret_access_key is not None:
        yield ("tiers", "cold", "secret_access_key")
    if config.attribute_hash_key is not None:
        yield ("attribute_hash_key",)
    if has_password(config.tiers.hot.url.get_secret_value()):
        yield ("tiers", "hot", "url")
    if config.tiers.durable is not None and has_password(config.tiers.durable.url.get_secret_value()):
        yield ("tiers", "durable", "url")
    if has_password(config.catalog.url.get_secret_value()):
        yield ("catalog", "url")
