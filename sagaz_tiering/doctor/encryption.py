"""The master key: whether it opens what is encrypted."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from sagaz_tiering.app.runtime import Parts
from sagaz_tiering.catalog.saga_keys import SagaKeys
from sagaz_tiering.config.policy import FrameEncryption
from sagaz_tiering.doctor.finding import Finding, error, ok, warning
from sagaz_tiering.errors import MasterKeyUnavailable, SagazTieringError
from sagaz_tiering.keys.keyring import Keyring
from sagaz_tiering.keys.master import KeyTotals, WrappedKey

_DATA_KEYS = "encryption.data_keys"


async def check_encryption(parts: Parts) -> AsyncGenerator[Finding, None]:
    """The master key wraps and unwraps; and the catalog's data keys are all there and under a key that we have."""
    async with parts.database() as db:
        keys = SagaKeys(db)
        keyring = Keyring(keys, parts.master_keys())
        try:
            if parts.config.encryption is not None:
                yield ok("encryption.master_key", f"{await keyring.check()} wraps and unwraps, {_users(parts)}")
            async for found in _data_keys(keyring, keys, needed=parts.config.encryption is not None):
                yield found
        finally:
            await keyring.close()


def _users(parts: Parts) -> str:
    names = [each.name for each in parts.config.policies if each.encryption is not FrameEncryption.NONE]
    return f"for {', '.join(names)}" if names else "though no policy asks for it"


async def _data_keys(keyring: Keyring, keys: SagaKeys, *, needed: bool) -> AsyncGenerator[Finding, None]:
    try:
        totals, samples = await keys.totals(), await keys.one_of_each_master()
    except SagazTieringError as exc:
        if needed:
            yield warning(_DATA_KEYS, f"not looked at: {exc}", exc.hint)
        else:
            yield ok("encryption", "no master key is configured, and no policy needs one")
        return
    if not (needed or samples or totals.frames):
        yield ok("encryption", "not used")
        return
    for row in samples:
        yield await _opened(keyring, row, totals)
    if totals.keyless_frames:
        text = f"{totals.keyless_frames:,} of {totals.frames:,} encrypted frames have lost their data key"
        yield error(_DATA_KEYS, text, "sagaz-tiering keys import FILE", exit_code=6)
    else:
        yield ok(_DATA_KEYS, f"{totals.frames:,} encrypted frames, none without its data key")


async def _opened(keyring: Keyring, row: WrappedKey, totals: KeyTotals) -> Finding:
    """Whether its master key still opens what it wrapped."""
    count = totals.by_master.get(row.master_id, 1)
    try:
        await keyring.open(row)
    except MasterKeyUnavailable as exc:
        text = f"{count:,} data keys under {row.master_id} cannot be opened: {exc}"
        return error(_DATA_KEYS, text, exc.hint, exit_code=exc.exit_code)
    return ok(_DATA_KEYS, f"{count:,} data keys under {row.master_id} can be opened")
