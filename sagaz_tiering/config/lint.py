"""What is allowed in policies and settings but probably not meant: unreachable, unmatched, costly, unused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Final

from sagaz_tiering.config.model import TieringConfig
from sagaz_tiering.config.patterns import ANY, RUNNING, matcher, patterns_cover
from sagaz_tiering.config.policy import Move, Policy
from sagaz_tiering.config.schema import Location
from sagaz_tiering.config.units import format_duration
from sagaz_tiering.config.urls import has_password
from sagaz_tiering.config.written import variable_for
from sagaz_tiering.storage_class import StorageClass

_ENGINE_STAMPS = (
    "sagaz sets retention_until 30 days ahead unless ReplayConfig(retention_days=…) says otherwise, so what it saves "
    "is deleted after 30 days"
)
_EXPRESSION: Final = re.compile(r"^\^|\$$|\\[.\-\w]|[\])]\+|^[^\[]*\|")
"""What names hardly have: `^` and `$` at the ends, `\\d`, `[a-z]+`, `a|b`."""
OUTCOMES: Final = ("completed", "failed", "rolled_back", "partially_committed", "forward_recovery", RUNNING)
"""How sagas of sagaz end."""


def policy_warnings(
    policies: Sequence[Policy], minimum_durations: Mapping[StorageClass, timedelta]
) -> Iterator[tuple[Location, str]]:
    """Every warning about these policies, in their order, each with where in the list it belongs.

    `minimum_durations` is the time each class bills at least (of the price list); a class that is not in it
    bills by the day.
    """
    for i, policy in enumerate(policies):
        remarks = (
            *_unreachable(policy, policies[:i]),
            *_expressions(policy),
            *_single_snapshots(policy),
            *_unknown_outcomes(policy),
            *_running(policy),
            *_unretained(policy),
            *_short_stays(policy, minimum_durations),
            *_thaws(policy),
        )
        yield from (((i, *where), text) for where, text in remarks)
    if not any(policy.match.is_catch_all for policy in policies):
        yield (), _no_catch_all(policies)


def used_policies(policies: Sequence[Policy]) -> list[Policy]:
    """Without those that are surely never used: one above matches everything that they could."""
    return [policy for number, policy in enumerate(policies) if _covering(policy, policies[:number]) is None]


def _covering(policy: Policy, above: Sequence[Policy]) -> Policy | None:
    return next((other for other in above if other.match.covers(policy.match)), None)


def _unreachable(policy: Policy, above: Sequence[Policy]) -> Iterator[tuple[Location, str]]:
    earlier = _covering(policy, above)
    if earlier is not None:
        yield (
            ("match",),
            f"policy {policy.name!r} is never used: {earlier.name!r} above it already matches everything it "
            f"could; move it above {earlier.name!r}",
        )


def _expressions(policy: Policy) -> Iterator[tuple[Location, str]]:
    """Patterns that a shell would take another way than they seem to be meant."""
    for name, patterns in policy.match.by_name.items():
        yield from ((("match", *name.split(".")), text) for text in expression_warnings(patterns))


def expression_warnings(patterns: Sequence[str]) -> Iterator[str]:
    """A warning for each of these patterns that looks like a regular expression."""
    for pattern in patterns:
        dots = re.sub(r"\.[*+]", "", pattern).count(".")  # com.acme.* is one of dotted names
        if not _EXPRESSION.search(pattern) and (dots or not re.search(r"\.[*+]", pattern)):
            continue
        meant = re.sub(r"\.[*+]", "*", pattern.removeprefix("^").removesuffix("$")).replace("(*)", "*")
        advice = "write a list of patterns"
        if not set(meant) & set("()|+\\"):
            advice = f"did you mean {meant}? (a dot or a sign that is meant stands in brackets: [.])"
        yield (
            f"{pattern} looks like a regular expression, but patterns are those of a shell (*, ?, [seq]), so "
            f"each other sign in it stands for itself; {advice}"
        )


def policy_notes(policies: Sequence[Policy]) -> Iterator[str]:
    """What is no doubt, but to be known: what the clock counts from by default, and what an outcome needs."""
    silent = [
        policy for policy in policies if "clock" not in policy.model_fields_set and (policy.move or policy.lifetime)
    ]
    if silent:
        yield (
            f"{_names(silent)}: ages count from the end of each saga (clock: saga_end; created_at counts for each "
            "snapshot by itself)"
        )
    if any(policy.match.outcome != ANY for policy in policies):
        ruling = [policy for policy in policies if matcher(policy.match.outcome)(RUNNING)]
        by = f"so {_names(ruling)} may rule it" if ruling else "and no policy rules it"
        yield (
            f"a saga of which no end was recorded counts as {RUNNING}, {by}: the engine records none of one that "
            "failed or was rolled back, nor with ON_FAILURE or BEFORE_EACH_STEP of one that completed; "
            "sagaz_tiering.capture records the end of each"
        )

    by_attribute = [policy for policy in policies if policy.match.attributes]
    if by_attribute:
        yield (
            f"{_names(by_attribute)}: what was saved before an attribute was configured, or by an application that "
            "does not know it, has no value of it, so such a rule does not see the saga until that is saved again"
        )


def _names(policies: Sequence[Policy]) -> str:
    return ", ".join(repr(policy.name) for policy in policies)


def _single_snapshots(policy: Policy) -> Iterator[tuple[Location, str]]:
    """`status` where whole sagas may be meant; to name `outcome` beside it says that they are not."""
    match = policy.match
    if match.status == ANY or "outcome" in match.model_fields_set:
        return
    wanted = [status for status in match.status if status in OUTCOMES]
    meant = f"outcome: [{', '.join(wanted)}]" if wanted else "outcome"
    yield (
        ("match", "status"),
        "looks at each snapshot by itself: of a saga that ends so the steps that led there do not match, and go by "
        f'another policy; was {meant} meant, which rules all of the saga? (outcome: "*" beside it: no)',
    )


def _unknown_outcomes(policy: Policy) -> Iterator[tuple[Location, str]]:
    for pattern in policy.match.outcome:
        if not any(map(matcher((pattern,)), OUTCOMES)):
            yield (
                ("match", "outcome"),
                f"{pattern} is no outcome of a saga of sagaz, which is one of {', '.join(OUTCOMES)}; right only "
                "where your own code saves that status",
            )


def _running(policy: Policy) -> Iterator[tuple[Location, str]]:
    """`running_at_most` where it does not count, or where a saga that waits goes before."""
    if "running_at_most" not in policy.model_fields_set:
        return
    why = None
    if policy.clock != "saga_end":
        why = f"clock: {policy.clock} moves each snapshot by its own age"
    elif not policy.move:
        why = "nothing moves"
    elif not matcher(policy.match.outcome)(RUNNING):
        why = f"no saga that is {RUNNING} matches"
    elif policy.running_at_most < policy.move[0].after:
        why = f"nothing moves before {format_duration(policy.move[0].after)}"
    if why is not None:
        yield ("running_at_most",), f"does not count: {why}; remove it"
    elif policy.lifetime is not None and policy.lifetime < policy.running_at_most:
        yield (
            ("retain",),
            f"a saga that waits {format_duration(policy.lifetime)} for its next step is deleted while it runs, before "
            f"running_at_most ({format_duration(policy.running_at_most)}); retain sagas that are {RUNNING} longer, by "
            "a policy of their own",
        )


def _unretained(policy: Policy) -> Iterator[tuple[Location, str]]:
    """A `retain` that is missing, or that does not count."""
    if policy.retain is None and policy.retention == "longest":
        yield (
            (),
            f"policy {policy.name!r} has no `retain`, so a snapshot's own retention_until decides: {_ENGINE_STAMPS}; "
            "write retain: forever (or a duration), or retention: snapshot if that is meant",
        )
    if policy.retain is not None and policy.retention == "snapshot":
        text = "does not count: retention: snapshot asks the snapshot's own retention_until alone; remove one"
        yield ("retain",), text


def _short_stays(policy: Policy, minimum: Mapping[StorageClass, timedelta]) -> Iterator[tuple[Location, str]]:
    """Classes that are left before the time that they bill at least."""
    where: Location
    for i, move in enumerate(policy.move):
        if i + 1 < len(policy.move):
            leaves, where, what = policy.move[i + 1].after, ("move", i + 1, "after"), policy.move[i + 1].to.value
        elif policy.lifetime is not None:
            leaves, where, what = policy.lifetime, ("retain",), "deletion"
        else:
            return
        stay, least = leaves - move.after, minimum.get(move.to, timedelta(0))
        if stay < least:
            yield (
                where,
                f"stays in {move.to} only {format_duration(stay)} before {what}, but {move.to} bills at least "
                f"{format_duration(least)}; wait until {format_duration(move.after + least)}, or skip {move.to}",
            )


def _thaws(policy: Policy) -> Iterator[tuple[Location, str]]:
    """Moves out of an archive class: S3 copies such an object only after a restore."""
    moves: Sequence[Move] = policy.move
    for i, move in enumerate(moves[:-1]):
        if move.to.is_archive:
            yield (
                ("move", i + 1, "to"),
                f"moving from {move.to} to {moves[i + 1].to} has to restore every pack first, which takes hours "
                f"and is billed; move to {moves[i + 1].to} directly, or keep {move.to}",
            )


def _no_catch_all(policies: Sequence[Policy]) -> str:
    who = "no policy matches every snapshot, so those that none matches" if policies else "no policies, so snapshots"
    if policies and not any(matcher(policy.match.outcome)(RUNNING) for policy in policies):
        who += f" (those of every saga that is {RUNNING}, or of which no end was recorded, among them)"
    return (
        f"{who} stay in Redis and PostgreSQL, never move, and expire by their own retention_until ({_ENGINE_STAMPS}); "
        "add a last policy with match: {} and retain: forever"
    )


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
