"""A snapshot as the JSON that people and programs are shown, and what differs between two such values. Pure.

What JSON does not know `codec.typed_json` tags (`{"~decimal": "1.50"}`).

Each change has a path for people and a pointer (RFC 6901) for a patch (RFC 6902). They differ where a tag is on the
way: `{"when": {"~tuple": [1, 2]}}` has `/when/1` at `/when/~0tuple/1`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from sagaz_tiering.codec.alignment import Effort, Pair, align, canonical, tag_of
from sagaz_tiering.codec.typed_json import from_tagged, tag
from sagaz_tiering.snapshot import SagaSnapshot

_EQUAL_IF_SAME: Final = frozenset({str, int, bool})
_UNORDERED: Final = frozenset({"~set", "~frozenset", "~dict"})
_OF_ELEMENTS: Final = _UNORDERED | {"~tuple"}
_USUAL_PATH: Final = 200
_MOST_OF_PATHS: Final = 100_000_000
"""Characters of paths beyond the usual length: a context may have keys of megabytes, and each path below names them."""


class ChangeKind(StrEnum):
    """What became of a value."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


_OPERATIONS: Final = {ChangeKind.ADDED: "add", ChangeKind.REMOVED: "remove", ChangeKind.CHANGED: "replace"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueChange:
    """A value that was added, removed or changed.

    `path`: `/context/order/total`, of a removed one as it was before, of others as it is after; of an element of a set
    the path of the set. `pointer`: the same in the JSON form, after the changes that come before this one. `old` and
    `new`: as JSON has them, typed values tagged; None where there is none. `key`: of a member of a dict whose keys are
    not all text, which the JSON form has as a pair.
    """

    kind: ChangeKind
    path: str
    pointer: str
    old: Any = None
    new: Any = None
    key: Any = None

    @property
    def before(self) -> Any:
        """The value that was there (a Decimal as a Decimal); None of an added one."""
        return from_tagged(self.old)

    @property
    def after(self) -> Any:
        """The value that is there now; None of a removed one."""
        return from_tagged(self.new)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, typed values tagged."""
        found: dict[str, Any] = {"change": self.kind.value, "path": self.path}
        if self.kind is not ChangeKind.ADDED:
            found["before"] = self.old
        if self.kind is not ChangeKind.REMOVED:
            found["after"] = self.new
        return found


def snapshot_document(snapshot: SagaSnapshot) -> dict[str, Any]:
    """A stored snapshot as JSON values."""
    typed = ("context", "completed_steps", "external_refs")
    return {**snapshot.to_dict(), **{name: tag(getattr(snapshot, name)) for name in typed}}


def changes(before: Any, after: Any) -> list[ValueChange]:
    """What turns one JSON value into the other, in the order of a patch.

    Of lists as little as can be told in bounded time: seconds for 10 MB, up to half a minute for millions of elements.
    What is behind keys of kilobytes may be told as a whole.
    """
    walk = _Walk()
    walk.values(before, after, _Place())
    return walk.found


def patch(found: Iterable[ValueChange]) -> list[dict[str, Any]]:
    """An RFC 6902 patch: applied to the JSON value before, it gives the one after."""
    operations = list[dict[str, Any]]()
    for each in found:
        operation: dict[str, Any] = {"op": _OPERATIONS[each.kind], "path": each.pointer}
        if each.kind is not ChangeKind.REMOVED:
            operation["value"] = each.new if each.key is None else [each.key, each.new]
        operations.append(operation)
    return operations


class _Place(NamedTuple):
    """Where the walk is: by a pointer for the patch, by paths for people before and after."""

    pointer: str = ""
    before: str = ""
    after: str = ""

    def member(self, key: str) -> _Place:
        part = f"/{_escaped(key)}"
        return _Place(self.pointer + part, self.before + part, self.after + part)

    def element(self, i: int, j: int) -> _Place:
        """Of a list: where an element was and where it is."""
        return _Place(f"{self.pointer}/{j}", f"{self.before}/{i}", f"{self.after}/{j}")

    def named(self, key: Any) -> _Place:
        """Of a dict with keys that are no text: by its key for people alone."""
        tag = tag_of(key)
        name = key if tag is None else key[tag]
        part = f"/{_escaped(name if type(name) is str else canonical(name).decode(errors='replace'))}"
        return self._replace(before=self.before + part, after=self.after + part)

    def inside(self, *parts: str | int) -> _Place:
        """Behind what only the JSON form has."""
        return self._replace(pointer="/".join((self.pointer, *(_escaped(str(part)) for part in parts))))


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


class _Walk:
    """Takes two frames of the stack for each level of a context."""

    def __init__(self) -> None:
        self.found: list[ValueChange] = []
        self._effort = Effort()
        self._room = _MOST_OF_PATHS

    def values(self, old: Any, new: Any, place: _Place) -> None:
        tag = tag_of(old)
        if tag != tag_of(new) or type(old) is not type(new):
            self._changed(old, new, place)
        elif tag == "~object" and old[tag][0] == new[tag][0]:
            self.values(old[tag][1], new[tag][1], place.inside(tag, 1))
        elif tag in _OF_ELEMENTS:
            self._elements(old[tag], new[tag], place.inside(tag), tag)
        elif tag is None and type(old) is dict:
            self._members(old, new, place)
        elif type(old) is list:
            self._elements(old, new, place, None)
        elif canonical(old) != canonical(new):
            self._changed(old, new, place)

    def _told_whole(self, old: Sized, new: Sized, place: _Place) -> bool:
        """Whether these are told as one value, since paths to what is in them would take too much."""
        path = max(len(place.pointer), len(place.after)) - _USUAL_PATH
        needed = max(0, path) * (len(old) + len(new))
        if needed <= self._room:
            self._room -= needed
            return False
        if canonical(old) != canonical(new):
            self._changed(old, new, place)
        return True

    def _members(self, old: dict[str, Any], new: dict[str, Any], place: _Place) -> None:
        if self._told_whole(old, new, place):
            return
        for key, value in old.items():
            if key not in new:
                self._note(ChangeKind.REMOVED, place.member(key), value)
            elif not _is_plainly_same(value, new[key]):
                self.values(value, new[key], place.member(key))
        for key, value in new.items():
            if key not in old:
                self._note(ChangeKind.ADDED, place.member(key), value)

    def _elements(self, old: Sequence[Any], new: Sequence[Any], place: _Place, tag: str | None) -> None:
        """Of a list or tuple, of a set, or the pairs of a dict whose keys are not all text."""
        if self._told_whole(old, new, place):
            return
        is_dict, is_list = tag == "~dict", tag not in _UNORDERED
        before, after = ([key for key, _ in side] if is_dict else side for side in (old, new))
        together = align(before, after, self._effort, equal_only=not is_list)
        for i, j, kind in _steps(together, len(old), len(new)):
            at = place.element(i, j) if is_list else place.inside(j)
            value = new[j] if kind is ChangeKind.ADDED else old[i]
            if not is_dict:
                if kind is not ChangeKind.CHANGED:
                    self._note(kind, at, value)
                elif is_list and not _is_plainly_same(value, new[j]):
                    self.values(value, new[j], at)
                continue
            key, value = value
            at = at.named(key)
            if kind is not ChangeKind.CHANGED:
                self._note(kind, at, value, key)
            else:
                self.values(value, new[j][1], at.inside(1))

    def _note(self, kind: ChangeKind, place: _Place, value: Any, key: Any = None) -> None:
        """What was added or removed."""
        if kind is ChangeKind.ADDED:
            change = ValueChange(kind=kind, path=place.after, pointer=place.pointer, new=value, key=key)
        else:
            change = ValueChange(kind=kind, path=place.before, pointer=place.pointer, old=value, key=key)
        self.found.append(change)

    def _changed(self, old: Any, new: Any, place: _Place) -> None:
        self.found.append(
            ValueChange(kind=ChangeKind.CHANGED, path=place.after, pointer=place.pointer, old=old, new=new)
        )


def _is_plainly_same(old: Any, new: Any) -> bool:
    """Whether two values are known to be the same without a walk: of most leaves it is."""
    return old is new or (type(old) is type(new) and type(old) in _EQUAL_IF_SAME and bool(old == new))


def _steps(together: Iterable[Pair], end_i: int, end_j: int) -> Iterator[tuple[int, int, ChangeKind]]:
    """How one list becomes the other, from its start: where each element was, where it is, and what becomes of it."""
    i = j = 0
    for to_i, to_j in (*together, (end_i, end_j)):
        yield from ((gone, j, ChangeKind.REMOVED) for gone in range(i, to_i))
        yield from ((to_i, come, ChangeKind.ADDED) for come in range(j, to_j))
        if to_i < end_i:
            yield to_i, to_j, ChangeKind.CHANGED
        i, j = to_i + 1, to_j + 1
