"""What a bucket does with objects by itself, by its own settings: versions, locks, lifecycle rules. Only reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sagaz_tiering.errors import ObjectStoreError
from sagaz_tiering.objects.s3.calls import S3Calls
from sagaz_tiering.objects.s3.errors import error_code

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import LifecycleRuleOutputTypeDef

_UNSET = {
    "GetBucketLifecycleConfiguration": ("NoSuchLifecycleConfiguration",),
    "GetObjectLockConfiguration": ("ObjectLockConfigurationNotFoundError", "InvalidRequest"),
}
_NOT_THERE = ("NotImplemented", "MethodNotAllowed")
"""What stores answer that do not have such settings at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleRule:
    """A rule in force: whose keys start with `prefix` (of the bucket), if `tagged` only objects with some tag.

    `moves_to` are the classes that current objects are moved to.
    """

    name: str
    prefix: str
    tagged: bool
    expires: bool
    moves_to: tuple[str, ...]
    aborts_uploads: bool

    def touches(self, prefix: str) -> bool:
        """Whether objects under that prefix (of the bucket, ending with a slash, or empty) can fall under it."""
        return not self.tagged and (self.prefix.startswith(prefix) or prefix.startswith(self.prefix))


async def versioning(calls: S3Calls) -> str:
    """`Enabled`, `Suspended`, or "" where versions were never kept."""
    answer = await _setting(calls, "GetBucketVersioning")
    return str(answer.get("Status", ""))


async def lists_versions(calls: S3Calls) -> None:
    """Raise unless old versions may be listed, without which they cannot be removed."""
    await calls.ask("ListObjectVersions", Prefix=calls.options.prefix, MaxKeys=1)


async def default_lock(calls: S3Calls) -> str:
    """How long Object Lock keeps every new object, like `COMPLIANCE, 365 days`; "" where it does not."""
    answer = await _setting(calls, "GetObjectLockConfiguration")
    kept = answer.get("ObjectLockConfiguration", {}).get("Rule", {}).get("DefaultRetention", {})
    if not kept:
        return ""
    span = f"{kept['Years']} years" if kept.get("Years") else f"{kept.get('Days', 0)} days"
    return f"{kept.get('Mode', 'locked')}, {span}"


async def lifecycle_rules(calls: S3Calls) -> list[LifecycleRule]:
    """The lifecycle rules that are switched on."""
    answer = await _setting(calls, "GetBucketLifecycleConfiguration")
    return [_rule(each) for each in answer.get("Rules", []) if each.get("Status") == "Enabled"]


async def _setting(calls: S3Calls, operation: str) -> dict[str, Any]:
    """The answer; an empty one where the bucket or the store has no such setting."""
    try:
        answer: dict[str, Any] = await calls.ask(operation)
    except ObjectStoreError as exc:
        if error_code(exc) in (*_UNSET.get(operation, ()), *_NOT_THERE):
            return {}
        raise
    return answer


def _rule(found: LifecycleRuleOutputTypeDef) -> LifecycleRule:
    which = found.get("Filter", {})
    both = which.get("And", {})
    prefix = found.get("Prefix") or which.get("Prefix") or both.get("Prefix") or ""
    expiration = found.get("Expiration", {})
    return LifecycleRule(
        name=found.get("ID", "without a name"),
        prefix=prefix,
        tagged=bool(which.get("Tag") or both.get("Tags")),
        expires="Days" in expiration or "Date" in expiration,
        moves_to=tuple(_classes(found)),
        aborts_uploads="AbortIncompleteMultipartUpload" in found,
    )


def _classes(found: LifecycleRuleOutputTypeDef) -> Iterator[str]:
    for transition in found.get("Transitions", []):
        if "StorageClass" in transition:
            yield transition["StorageClass"]
