"""Exports made without any server, as the exporter makes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sagaz_tiering.clock import to_micros
from sagaz_tiering.codec.value import encode
from sagaz_tiering.exports.draft import Draft, DraftState, finish
from sagaz_tiering.exports.manifest import Manifest, RowKind, Signer
from sagaz_tiering.exports.parts import Entry, Row, SnapshotRow
from sagaz_tiering.snapshot import SagaSnapshot, SnapshotRef, Tier
from support.snapshots import replay
from support.tiers import NOW

EXPORT_ID = UUID("e0e0e0e0-0000-4000-8000-000000000001")


def key_files(folder: Path, name: str = "auditor") -> tuple[Path, Path]:
    """A private and its public key, in PEM files."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def begun(out: Path, form: str = "jsonl", **options: Any) -> tuple[Draft, DraftState]:
    """The draft of an export, from its beginning or where it is."""
    draft = Draft(out, form)
    state = DraftState(fingerprint=f"tests {form}", export_id=EXPORT_ID, began_at=NOW)
    return draft, draft.begin(state, **{"restart": False, "overwrite": False, **options})


def rows_of(snapshots: Sequence[SagaSnapshot]) -> list[Row]:
    """Snapshots and timeline."""
    rows = []
    for snapshot in snapshots:
        record = encode(snapshot, saved_us=to_micros(NOW))
        entry = Entry(
            ref=SnapshotRef.of(record.meta, expires_us=None, tier=Tier.HOT),
            saved_at=NOW,
            body_crc32=f"{record.meta.body_crc:08x}",
        )
        rows.append(Row(RowKind.SNAPSHOTS, snapshot.saga_id, SnapshotRow(record, entry)))
        rows.append(Row(RowKind.TIMELINE, snapshot.saga_id, entry))
    return rows


def write_round(draft: Draft, state: DraftState, snapshots: Sequence[SagaSnapshot]) -> None:
    """One more round of parts."""
    draft.add(rows_of(snapshots), state.rounds + 1)
    counts = state.counts
    sagas = {snapshot.saga_id for snapshot in snapshots}
    counts.selected += len(sagas)
    counts.sagas += len(sagas)
    counts.found += len(snapshots)
    counts.exported += len(snapshots)
    state.mark = max(sagas)
    draft.complete(state)


def completed(draft: Draft, state: DraftState, form: str, sign_with: Path | None = None, **options: Any) -> str:
    """Bring it to its place; the SHA-256 of its manifest."""
    signer = None if sign_with is None else Signer(sign_with)
    manifest = Manifest(
        export_id=state.export_id,
        form=form,
        made_by="sagaz-tiering 1",
        who="a test",
        source={"hot": "redis://one", "catalog": "postgresql://two", "cold": "s3://three"},
        asked_for={},
        policy_revisions=["abc"],
        began_at=state.began_at,
        finished_at=NOW,
        runs=state.runs,
        counts=state.counts,
        left_out=state.left_out,
        parts=state.parts,
        public_key=None if signer is None else signer.public_key,
    )
    return finish(draft, manifest, signer, **{"overwrite": False, **options})


def exported(out: Path, snapshots: Sequence[SagaSnapshot], form: str = "jsonl", sign_with: Path | None = None) -> None:
    """An export of two rounds, with a replay record and an entry of the holds log."""
    draft, state = begun(out, form)
    half = len(snapshots) // 2
    write_round(draft, state, snapshots[:half])
    record = replay(1, original_saga_id=snapshots[0].saga_id, context_override={"why": "a test"}).to_dict()
    hold = {
        "entry_id": 1,
        "hold_id": EXPORT_ID,
        "action": "hold",
        "at": NOW,
        "who": "a court",
        "reason": "case 1",
        "saga_id": snapshots[0].saga_id,
        "match": None,
    }
    draft.add([Row(RowKind.REPLAYS, snapshots[0].saga_id, record), Row(RowKind.HOLDS, None, hold)], state.rounds + 1)
    state.counts.replays += 1
    state.counts.holds += 1
    write_round(draft, state, snapshots[half:])
    completed(draft, state, form, sign_with)
