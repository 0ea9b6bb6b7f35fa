"""The sections beside `tiers`, `policies` and `schedule`: catalog, attributes, jobs, daemon, console, log, embedded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator

from sagaz_tiering.attributes import MIN_HASH_KEY_BYTES, NAME_PATTERN
from sagaz_tiering.config.patterns import ANY, Patterns
from sagaz_tiering.config.policy import Policy
from sagaz_tiering.config.schema import Location, StrictModel, problem
from sagaz_tiering.config.units import ByteSize, Count, Duration, DurationOrZero, format_duration
from sagaz_tiering.config.urls import PostgresUrl

MOST_PROCESSES = 8
"""Of one backlog: a lease waits for each."""


class CatalogSettings(StrictModel):
    """PostgreSQL, which knows where every snapshot is."""

    url: PostgresUrl
    """`postgresql://USER@HOST:5432/DATABASE`, or `embedded`."""
    pool_min: Annotated[int, Field(ge=0, le=1000)] = 1
    """Connections that one process keeps open."""
    pool_max: Annotated[int, Field(ge=1, le=1000)] = 10
    """Connections that one process opens at most; more callers wait."""
    statement_cache: bool = True
    """Prepared statements; `false` behind pgbouncer in transaction mode."""
    command_timeout: Duration = timedelta(seconds=30)
    """Deadline of each statement."""

    @field_validator("pool_max")
    @classmethod
    def _check_pool(cls, pool_max: int, info: ValidationInfo) -> int:
        if pool_max < info.data.get("pool_min", 0):
            raise problem(f"{pool_max} is less than pool_min, {info.data['pool_min']}; make it at least that")
        return pool_max


class LimitSettings(StrictModel):
    """What is refused."""

    max_snapshot: ByteSize = 32 * 2**20
    """Largest encoded snapshot that a save accepts."""
    on_unsupported: Literal["refuse", "text"] = "refuse"
    """What a save does with a value that would not come back equal (docs/contexts.md): `refuse` the snapshot, or keep
    the `text` of the value in its place, as sagaz does; each is counted in a metric, and told in the log."""


class JobSettings(StrictModel):
    """How jobs work."""

    lease_ttl: Duration = timedelta(seconds=60)
    """After so long without a sign of life another daemon takes over a job."""
    claim_ttl: Duration = timedelta(minutes=10)
    """After so long another daemon takes over a claimed batch of sagas."""
    batch_sagas: Count = 256
    """Sagas that one step of a job claims at once."""
    processes: Annotated[int, Field(ge=0, le=MOST_PROCESSES)] = 0
    """Processes that age a large backlog together; 0: one a core if memory allows, at most 4 (150 MiB each)."""
    nice: Annotated[int, Field(ge=0, le=19)] = 10
    """Niceness of the daemon and of `job`: others on the machine go first. Under systemd the unit's `Nice=` counts."""
    upload_deadline: Duration = timedelta(hours=1)
    """Longest time that writing one pack may take."""
    retire_grace: DurationOrZero = timedelta(hours=24)
    """Time between a pack's last snapshot going and its bytes going, for readers that are under way."""
    tombstones: Duration = timedelta(days=90)
    """How long it is remembered what was deleted: a Redis that went back further than that is not merged any more."""
    collect_min_age: Duration = timedelta(hours=24)
    """Youngest unknown object that `collect` removes; not less than `upload_deadline`."""
    collect_max_deletes: Annotated[int, Field(ge=1)] = 1000
    """Most objects that one run of `collect` removes."""
    scrub_cycle: Duration = timedelta(days=30)
    """Every pack is looked into once in so long, as far as the budget below allows."""
    scrub_requests: Count = 10_000
    """Most requests of one run of `scrub` beside the listing."""
    scrub_bytes: ByteSize = 10 * 2**30
    """Most bytes that one run of `scrub` reads whole packs with; beyond it samples a few frames each."""
    compact_live_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Packs with a smaller share of live snapshots are written anew, where that saves more than it costs."""
    compact_small_share: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Packs smaller than this share of `pack.target` are merged, where that saves more than it costs."""
    expire_max_share: Annotated[float, Field(gt=0, le=1)] = 0.01
    """A run of `expire` stops and asks where policies end more than this share of what one kept earlier; 1: never."""
    expire_free_count: Annotated[int, Field(ge=0)] = 1000
    """So many may always end earlier, but never more than 1 % of what their policy keeps."""

    def _problems(self) -> Iterator[tuple[Location, str]]:
        if self.collect_min_age < self.upload_deadline:
            shorter = f"shorter than upload_deadline, {format_duration(self.upload_deadline)}"
            yield ("collect_min_age",), f"{shorter}: packs still being written would be removed; raise it"


class DictionarySettings(StrictModel):
    """Compression dictionaries: text that the sagas of one name share, so that none of them repeats it."""

    enabled: bool = True
    """Train them, and compress new values and frames with them; what was, stays readable whatever this is."""
    size: Annotated[ByteSize, Field(le=2**20)] = 64 * 2**10
    """Largest dictionary; one of half the size is tried too."""
    sample: ByteSize = 4 * 2**20
    """Most bytes, uncompressed, that one is trained from."""
    min_sagas: Annotated[int, Field(ge=20)] = 50
    """Names with fewer sagas in Redis and PostgreSQL get none."""


class BudgetSettings(StrictModel):
    """What the jobs may spend on the object store in a day (UTC), by list prices; then they stop until tomorrow."""

    requests_per_day: Annotated[int, Field(ge=1)] | None = None
    """Most requests of `age`, `transition`, `restore`, `compact` and `scrub` together; null: no limit."""
    usd_per_day: Annotated[float, Field(gt=0)] | None = None
    """Most dollars of the same, retrieval and early deletion included, storage not; null: no limit."""


class RestoreSettings(StrictModel):
    """How archived snapshots come back."""

    tier: Literal["Expedited", "Standard", "Bulk"] = "Standard"
    """How fast, where a request does not say."""
    days: Annotated[int, Field(ge=1, le=3650)] = 7
    """How long they stay readable, where a request does not say."""
    on_archived: Literal["raise", "request"] = "raise"
    """`raise`: a read of archived bytes says how to restore them; `request`: it also asks for it."""
    webhook: SecretStr | None = None
    """URL that is told (POST of JSON) when a restore has ended."""
    command: tuple[str, ...] = ()
    """Program and arguments that are run when a restore has ended, with the JSON on stdin."""


class EncryptionSettings(StrictModel):
    """The master key, which wraps the data keys of policies with `encryption: per-saga`."""

    key_file: Path | None = None
    """File of master keys, lines `NAME:BASE64`; the first is current. Not readable by others (mode 600)."""
    kms_key_id: Annotated[str, Field(min_length=1)] | None = None
    """Id, ARN or alias of a key in AWS KMS; with `key_file` beside it this one is current, the file opens the rest."""
    kms_region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")] | None = None
    """Region of the KMS key; absent: the usual AWS sources. Credentials come from there too."""
    kms_endpoint_url: str | None = None
    """Address of KMS; absent: AWS."""

    def _problems(self) -> Iterator[tuple[Location, str]]:
        if self.kms_key_id is not None:
            return
        if self.key_file is None:
            yield (), "names no master key; add key_file: PATH or kms_key_id: ID, or remove the section"
        for name in ("kms_region", "kms_endpoint_url"):
            if getattr(self, name) is not None:
                yield (name,), "is only used with kms_key_id; add that, or remove it"


class DaemonSettings(StrictModel):
    """The daemon's own HTTP server (health and metrics) and its end."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on; it has no access control, so think before opening it to a network."""
    port: Annotated[int, Field(ge=0, le=65535)] = 9464
    """Port of `/livez`, `/readyz` and `/metrics`; 0 for any free one."""
    shutdown_grace: DurationOrZero = timedelta(seconds=60)
    """How long a running step may take to finish after SIGTERM."""


class LogSettings(StrictModel):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important event that is logged."""
    format: Literal["auto", "json", "console"] = "auto"
    """`auto` is `console` on a terminal and `json` elsewhere."""


def _check_directory(path: Path) -> Path:
    if not path.parts or path.parts[0].startswith("~"):
        raise problem("needs a directory, such as ../.sagaz-tiering or /var/lib/sagaz-tiering (no ~)")
    return path


DataDirectory = Annotated[Path, AfterValidator(_check_directory)]


class EmbeddedSettings(StrictModel):
    """Servers that are started and stopped with the process, for trying out, tests and small installations."""

    data_dir: DataDirectory
    """Where their data stays (relative paths start at the configuration file)."""
    postgres: bool = True
    """Start PostgreSQL for `catalog.url: embedded`."""
    redis: bool = True
    """Start Redis for `tiers.hot.url: embedded`."""
    s3: bool = True
    """Start an S3 server for `tiers.cold.endpoint_url: embedded`."""


def _dotted(path: str) -> str:
    if not all(path.split(".")):
        raise problem("needs keys joined by single dots, such as order.id")
    return path


class AttributeSettings(StrictModel):
    """A value that sagas can be found by, and ruled by (`match: {attributes: ...}`)."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    """Unique name: lower-case letters, digits and `_`, a letter first, at most 63."""
    path: Annotated[str, AfterValidator(_dotted)]
    """Where the value is in a context: keys joined by dots, such as `order.id`; of a list each element counts."""
    saga_name: Patterns = ANY
    """Sagas that have it."""
    hashed: bool = False
    """Keep only a keyed hash (`attribute_hash_key`), so that neither catalog nor bucket shows the value."""


def attribute_problems(
    attributes: Sequence[AttributeSettings], hash_key: SecretStr | None, policies: Sequence[Policy]
) -> Iterator[tuple[Location, str]]:
    """What cannot be of these together, each with where it is."""
    first: dict[str, int] = {}
    for i, attribute in enumerate(attributes):
        before = first.setdefault(attribute.name, i)
        if before != i:
            yield (
                ("attributes", i, "name"),
                f"{attribute.name!r} is already the name of attributes[{before}]; choose another, or let "
                "saga_name be a list",
            )
        if attribute.hashed and hash_key is None:
            yield ("attributes", i, "hashed"), "needs attribute_hash_key, a secret of at least 32 bytes"
    if hash_key is not None and len(hash_key.get_secret_value().encode()) < MIN_HASH_KEY_BYTES:
        yield ("attribute_hash_key",), f"is shorter than {MIN_HASH_KEY_BYTES} bytes; `openssl rand -hex 32` makes one"
    for i, policy in enumerate(policies):
        for name in policy.match.attributes:
            why = rule_problem(name, attributes)
            if why is not None:
                yield ("policies", i, "match", "attributes", name), why


def rule_problem(name: str, attributes: Sequence[AttributeSettings]) -> str | None:
    """Why no rule, hold or request can look at an attribute; None: one can."""
    found = next((attribute for attribute in attributes if attribute.name == name), None)
    if found is None:
        known = ", ".join(attribute.name for attribute in attributes) or "none"
        return f"no attribute {name!r} is defined; add it to the section attributes (there: {known})"
    if found.hashed:
        return f"attribute {name!r} is hashed, so no pattern can look at its values; define one that is not"
    return None


TokenHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 of a token, as `sagaz-tiering console-token` prints it."""


class ProxySettings(StrictModel):
    """A reverse proxy that has asked people who they are; nobody else must be able to ask from its addresses."""

    addresses: Annotated[tuple[IPv4Network | IPv6Network, ...], Field(min_length=1)]
    """Addresses or networks that the proxy asks from, such as `10.0.0.5` or `10.1.0.0/16`."""
    user_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] = "X-Forwarded-User"
    """Header in which it names the person; without it nobody is let in."""
    operators: tuple[str, ...] = ()
    """Names that may change something; the others may look."""


class ConsoleSettings(StrictModel):
    """The console in a browser. Without a token or a proxy it listens on this machine only, and changes nothing."""

    enabled: bool = False
    """Whether the daemon serves it."""
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 9465
    """Port; 0 for any free one."""
    viewer_token_hash: TokenHash | None = None
    """Hash of the token with which one may look."""
    operator_token_hash: TokenHash | None = None
    """Hash of the token with which one may look, restore, hold, release and forget."""
    proxy: ProxySettings | None = None
    """A reverse proxy that says who asks."""
    idle: Duration = timedelta(minutes=30)
    """After so long without a request one has to log in again."""
    session: Duration = timedelta(hours=12)
    """After so long in any case."""

    @property
    def is_open(self) -> bool:
        """Whether everybody who can reach it may look: there is neither a token nor a proxy."""
        return self.viewer_token_hash is None and self.operator_token_hash is None and self.proxy is None

    def _problems(self) -> Iterator[tuple[Location, str]]:
        if self.is_open and not is_loopback(self.host):
            yield (
                ("host",),
                f"{self.host} can be reached from elsewhere, but anybody could look; set viewer_token_hash and "
                "operator_token_hash (see `sagaz-tiering console-token`) or proxy, or listen on 127.0.0.1",
            )
        if self.viewer_token_hash is not None and self.viewer_token_hash == self.operator_token_hash:
            yield ("operator_token_hash",), "is that of the viewer's token; whoever may look could change things"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
