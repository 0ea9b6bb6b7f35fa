"""What `find` answers: pages of sagas, and where the next page begins."""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypedDict, TypeVar
from uuid import UUID

from sagaz_tiering.catalog.find import Position, Question
from sagaz_tiering.errors import ConfigError
from sagaz_tiering.terminal import document

_Item = TypeVar("_Item")
_CURSOR: Final = struct.Struct(">q16sI")


class SagaFilters(TypedDict, total=False):
    """What sagas are looked for by; a saga must meet all that is given.

    Names, statuses and steps are patterns such as `payment-*`, or lists of them; status and step are those of the
    newest snapshot. `created`: when the first one was made, (from, until), either may be None. `attributes`: by name a
    value or a list of values; a saga must have one of each. `tier`: hot, durable, cold or a storage class, in which
    something of it is. `held`: whether a legal hold is on any of it.
    """

    saga_name: str | Sequence[str] | None
    status: str | Sequence[str] | None
    step: str | Sequence[str] | None
    created: tuple[datetime | None, datetime | None] | None
    attributes: Mapping[str, object] | None
    tier: str | None
    held: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaSummary:
    """A saga that was found, by all of its snapshots that have not expired.

    `last_step`, `status` and `outcome` are those of its newest snapshot, which was made at `last_at`; `first_at` is
    when its first one was. `snapshots`: how many are read from where (`hot`, `durable`, `cold GLACIER`, ...), as the
    catalog knows. `next_move`: where the first of them goes next and when, with `(due)` or what blocks it;
    `expires_at`: when the last one expires (None: never); `held`: a legal hold is on some. `attributes`: the values of
    each, of a hashed one the hashes.
    """

    saga_id: UUID
    saga_name: str
    first_at: datetime
    last_at: datetime
    last_step: str
    status: str
    outcome: str
    snapshots: dict[str, int]
    next_move: str | None
    expires_at: datetime | None
    held: bool
    attributes: dict[str, list[str]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return document(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[_Item]):
    """Some of what was asked for. `cursor`: asked with it, `find` goes on behind them; None: these are the last.

    A page may be short, or empty, and have a cursor: then much was looked at of which little was meant. `count`: of how
    many in all, where that was asked, an estimate unless `count_is_exact`.
    """

    items: Sequence[_Item]
    cursor: str | None = None
    count: int | None = None
    count_is_exact: bool = True

    def __iter__(self) -> Iterator[_Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def cursor_text(after: Position, question: Question) -> str:
    """Where the next page of a question begins, as text that says nothing to people."""
    packed = _CURSOR.pack(after.place, after.saga_id.bytes, _check(after, question))
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def read_cursor(text: str, question: Question) -> Position:
    """The position in a text of `cursor_text`. Raises ConfigError for another text, or one of another question."""
    try:
        place, saga_id, check = _CURSOR.unpack(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
    except (struct.error, binascii.Error, ValueError, TypeError, AttributeError):
        raise ConfigError(
            f"{text!r:.60} is no cursor of find",
            hint="pass the cursor of the page before as it is, or none for the first page",
        ) from None
    after = Position(place, UUID(bytes=saga_id))
    if check != _check(after, question):
        raise ConfigError(
            "the cursor is damaged, or of another search",
            hint="ask with the same filters as for the page before; only the limit may differ",
        )
    return after


def _check(after: Position, question: Question) -> int:
    return zlib.crc32(repr((after.place, after.saga_id.int, question)).encode("utf-8", "backslashreplace"))
