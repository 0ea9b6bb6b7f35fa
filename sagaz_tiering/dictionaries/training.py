"""Training of a dictionary from the sagas of one name, so that it holds nothing of any single one of them. Pure.

A dictionary is made of text of real data and is kept for ever, and erasing a saga must erase everything of it. So
training sees masked sagas only (`mask`). In place of each value stands one that some saga has under the same key, drawn
at random, so that not even a combination of values is that of a saga. And of a value that fewer than `enough` sagas
have under that key only the beginning (or the end) is kept that so many values of sagas share, for example
`"2026-03-` or `@example.com"`; the rest are random characters of the same shape.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from random import Random
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Final

import zstandard

MIN_SHARED_BY: Final = 5
MIN_SHARED_SHARE: Final = 0.02
"""Text stays that so many sagas, and this share of all, have in common: a returning customer is in more than one."""

SEGMENT_BYTES: Final = 2000
MATCH_BYTES: Final = 8
"""zstd's k and d. Measured on 200 order sagas: with k from 1,000 to 4,000 dictionaries are as good as each other, with
200 frames are 2 % larger. With both given training takes 0.1 s; without, zstd tries out many for minutes."""

_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null|[^"\d\-tfn]+|.', re.DOTALL)
_VALUES: Final = b'"-0123456789tfn'
"""What values begin with, outside of strings."""
_RUN: Final = re.compile(rb"[A-Za-z\x80-\xff]+|\d+|.", re.DOTALL)
_MOST_RUNS: Final = 12
"""Runs of letters or digits, and single others, that the beginning or the end of a value is compared by."""
_LEAST_DISGUISED: Final = 5
"""Characters, a quote counted, that are disguised of a value that few have: fewer might come out as they were."""
_HEX: Final = re.compile(rb'"?[0-9a-f-]*"?')
_NO_KEY: Final = b""

Place = tuple[bytes, bytes]
"""A key, and a token that is its value (or one of them); without a key for what is no value."""


def mask(sagas: Sequence[Sequence[bytes]], *, seed: str) -> list[list[bytes]]:
    """The JSON bodies of each saga, as the module says. The same `sagas` and `seed` give the same. CPU heavy.

    In one saga the same value becomes the same, so that its snapshots resemble each other as they did.
    """
    by_key: dict[bytes, list[set[bytes]]] = {}
    for saga in sagas:
        mine: dict[bytes, set[bytes]] = {}
        for body in saga:
            for key, token in _places(body):
                mine.setdefault(key, set()).add(token)
        for key, tokens in mine.items():
            by_key.setdefault(key, []).append(tokens)
    values = {key: _values_of(key, found, enough(len(sagas))) for key, found in by_key.items()}
    random = Random(seed)
    return [_masked(saga, values, random) for saga in sagas]


def enough(sagas: int) -> int:
    """How many of so many sagas must have a text in common for it to stay."""
    return max(MIN_SHARED_BY, round(sagas * MIN_SHARED_SHARE))


def train(samples: Sequence[bytes], *, size: int, level: int = 1) -> bytes | None:
    """A dictionary of at most `size` bytes, for zstd's `level`; None where there is too little in common. CPU heavy."""
    with suppress(zstandard.ZstdError):
        trained = zstandard.train_dictionary(size, list(samples), k=SEGMENT_BYTES, d=MATCH_BYTES, level=level)
        return bytes(trained.as_bytes())
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Values:
    """What sagas have under one key: `tokens` with how many have each, summed up, for drawing.

    `shared` ones stay as they are; of others one of the beginnings in `heads` or ends in `tails` stays.
    """

    tokens: Sequence[bytes]
    sums: Sequence[int]
    shared: frozenset[bytes]
    heads: frozenset[bytes]
    tails: frozenset[bytes]

    def drawn(self, random: Random) -> bytes:
        return random.choices(self.tokens, cum_weights=self.sums)[0]

    def told(self, token: bytes, random: Random) -> bytes:
        """What of `token` may be told, the rest disguised."""
        if token in self.shared:
            return token
        head = max((part for part in _heads(token) if part in self.heads), key=len, default=b"")
        tail = max((part for part in _tails(token) if part in self.tails), key=len, default=b"")
        if len(head) >= len(tail):  # not both: who has this beginning with that end may be one saga alone
            return head + disguised(token[len(head) :], random)
        return disguised(token[: -len(tail)], random) + tail


def _values_of(key: bytes, by_saga: Sequence[set[bytes]], least: int) -> _Values:
    counts = Counter(token for tokens in by_saga for token in tokens)
    shared = frozenset(token for token, count in counts.items() if count >= least)

    def parts(cut: Callable[[bytes], Iterator[bytes]]) -> frozenset[bytes]:
        found: Counter[bytes] = Counter()
        for tokens in by_saga if key != _NO_KEY else ():
            found.update({part for token in tokens if token not in shared for part in cut(token)})
        return frozenset(part for part, count in found.items() if count >= least)

    tokens = sorted(counts)
    sums = list(accumulate(counts[token] for token in tokens))
    return _Values(tokens=tokens, sums=sums, shared=shared, heads=parts(_heads), tails=parts(_tails))


def _lengths(token: bytes, runs: Sequence[bytes]) -> Iterator[int]:
    """How much of it may stay, of so many runs."""
    return (length for length in accumulate(map(len, runs)) if 1 < length <= len(token) - _LEAST_DISGUISED)


def _heads(token: bytes) -> Iterator[bytes]:
    """Its beginnings that may stay."""
    return (token[:length] for length in _lengths(token, _RUN.findall(token)[:_MOST_RUNS]))


def _tails(token: bytes) -> Iterator[bytes]:
    """Its ends that may stay."""
    return (token[-length:] for length in _lengths(token, _RUN.findall(token)[: -_MOST_RUNS - 1 : -1]))


def _places(body: bytes) -> Iterator[Place]:
    """Every token and where it is: values under the key that came last, everything else under none."""
    tokens = _TOKEN.findall(body)
    key = _NO_KEY
    for token, after in zip_longest(tokens, tokens[1:], fillvalue=b""):
        if token[:1] == b'"' and after[:1] == b":":
            key = token
            yield _NO_KEY, token
        elif token[0] in _VALUES:
            yield key, token
        else:
            yield _NO_KEY, token


def _masked(saga: Sequence[bytes], values: Mapping[bytes, _Values], random: Random) -> list[bytes]:
    chosen: dict[Place, bytes] = {}
    masked = []
    for body in saga:
        parts = []
        for place in _places(body):
            if place not in chosen:
                key, token = place
                of_key = values[key]
                chosen[place] = of_key.told(token if key == _NO_KEY else of_key.drawn(random), random)
            parts.append(chosen[place])
        masked.append(b"".join(parts))
    return masked


def disguised(text: bytes, random: Random) -> bytes:
    """Random characters of the same shape: digit for digit, letter for letter (a to f in hexadecimal text).

    Punctuation stays; what is not ASCII becomes letters. Shapes matter: zstd learns from them how often each
    character is to be expected (measured: 7 % smaller frames than with nothing in place of what is rare).
    """
    letters = _HEX_LETTERS if _HEX.fullmatch(text) else _LETTERS
    return bytes([letters[char][noise] for char, noise in zip(text, random.randbytes(len(text)), strict=True)])


def _alphabets(lower: bytes) -> list[bytes]:
    """For each character: what a random byte makes of it."""
    alphabets = dict.fromkeys((*ascii_lowercase.encode(), *range(128, 256)), lower)
    for alphabet in (ascii_uppercase.encode(), digits.encode()):
        alphabets |= dict.fromkeys(alphabet, alphabet)
    return [(alphabets.get(char, bytes([char])) * 256)[:256] for char in range(256)]


_LETTERS: Final = _alphabets(ascii_lowercase.encode())
_HEX_LETTERS: Final = _alphabets(b"abcdef")
