"""Every command that can answer in JSON, run over a small installation: the keys of what each says."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sagaz_tiering.app.runtime import open_runtime
from sagaz_tiering.catalog.migrations import migrate
from sagaz_tiering.config.load import load_config
from sagaz_tiering.jobs import JOBS, run_job
from sagaz_tiering.snapshot import ReplayResult, ReplayStatus
from support.commands import cli, save, write_config
from support.payload import saga
from support.surface import keys_of

_POLICIES = """\
policies:
  - name: frozen
    match: {saga_name: "frozen-*"}
    move: [{to: GLACIER, after: 1d}]
    even_if_costlier: true
  - name: secret
    match: {saga_name: "secret-*"}
    move: [{to: STANDARD_IA, after: 7d}]
    even_if_costlier: true
    encryption: per-saga
    retain: 36500d
  - name: default
    match: {}
encryption: {key_file: master.keys}
"""
_REPLAY = UUID("5a9a0000-0000-4000-8000-000000000001")


async def document_keys(folder: Path, *, database: str, redis_url: str) -> str:
    """The keys of each document by its command line, over a saga in Redis, one in a pack and one in an archive."""
    config = write_config(folder, database=database, redis_url=redis_url, policies=_POLICIES)
    other = folder / "other.yaml"
    other.write_text(config.read_text().replace("after: 7d", "after: 14d"))
    now = datetime.now(UTC).replace(microsecond=123456)
    secret = saga(1, begun=now - timedelta(days=30), saga_name="secret-orders")
    frozen = saga(2, begun=now - timedelta(days=30), saga_name="frozen-orders")
    hot = saga(3, begun=now - timedelta(hours=1))
    found: dict[str, Any] = {}
    names = {
        str(config): "CONFIG",
        str(other): "OTHER",
        str(folder): "FOLDER",
        str(secret[0].saga_id): "SECRET",
        str(frozen[0].saga_id): "FROZEN",
        str(frozen[0].snapshot_id): "FROZEN_SNAPSHOT",
        str(hot[0].saga_id): "HOT",
        str(hot[0].snapshot_id): "HOT_SNAPSHOT",
        now.isoformat(): "NOW",
    }

    async def ask(*command: object, config_option: bool = True) -> Any:
        options = ["--config", config] if config_option else []
        answer = await cli(*command, *options, "--json", cwd=folder)
        text = answer.out if answer.out.strip() else answer.err
        words = " ".join(map(str, command))
        for value, name in names.items():
            words = words.replace(value, name)
        document = json.loads(text)
        if "context" in document:
            document["context"] = {}
        found[f"{len(found):02d} {words}"] = {"exit": answer.code, "keys": keys_of(document)}
        return document

    await ask("keys", "generate", "--name", "first")
    await ask("catalog", "migrate")
    async with open_runtime(load_config(config)) as runtime:
        await migrate(runtime.db)
        await save(runtime.storage(), secret + frozen + hot)
        for job in ("age", "transition"):
            await run_job(job, runtime.job_context())
        record = ReplayResult(_REPLAY, hot[0].saga_id, hot[0].saga_id, hot[0].step_name, ReplayStatus.SUCCESS)
        await runtime.storage().save_replay_log(record)
    saga_id, archived = hot[0].saga_id, frozen[0].saga_id
    await ask("policy", "check", config, config_option=False)
    await ask("status")
    await ask("status", "--count")
    await ask("plan")
    await ask("plan", "--policy", other)
    await ask("timeline", saga_id)
    await ask("timeline", archived)
    await ask("show", hot[0].snapshot_id)
    await ask("show", frozen[0].snapshot_id)
    await ask("explain", hot[0].snapshot_id)
    await ask("explain", frozen[0].snapshot_id)
    held = await ask("hold", secret[0].saga_id, "--reason", "case", "--who", "us")
    await ask("holds")
    await ask("holds", "--log")
    names[str(held.get("hold_id"))] = "HOLD"
    await ask("forget", secret[0].saga_id, "--reason", "asked", "--yes")
    await ask("release", held["hold_id"], "--reason", "over", "--who", "us")
    asked = await ask("restore", archived)
    await ask("restores")
    restore_id = str(asked.get("restore_id"))
    names[restore_id] = "RESTORE"
    await ask("restores", restore_id)
    for name in JOBS:
        await ask("job", name, "--once")
        await ask("job", name, "--dry-run")
    await ask("cancel-restore", restore_id)
    await ask("quarantine", "list")
    await ask("doctor")
    await ask("status", "--history")
    await ask("keys", "status")
    await ask("keys", "export", folder / "keys.backup")
    await ask("keys", "import", folder / "keys.backup")
    await ask("keys", "rotate")
    await ask("catalog", "verify")
    await ask("catalog", "rebuild", "--dry-run")
    await ask("replay", "time-travel", saga_id, "--at", now.isoformat())
    await ask("replay", "list-changes", saga_id, "--keys")
    await ask("replay", "history", saga_id)
    await ask("transfer", "--from", f"file://{folder}/none", "--to", f"file://{folder}/copy", config_option=False)
    await ask("forget", secret[0].saga_id, "--reason", "asked", "--yes")
    await ask("erasures")
    await ask("timeline", "not-an-id")
    await ask("find", "--count")
    await ask("diff", saga_id, hot[0].step_name, hot[1].step_name)
    await ask("replay", "run", saga_id, "--from-step", hot[1].step_name, "--dry-run")
    await ask("export", "--out", folder / "export")
    await ask("export", "verify", folder / "export", config_option=False)
    await ask("console-token")
    await ask("catalog", "adopt", "--take-over", "--yes")
    async with open_runtime(load_config(config)) as runtime:
        await runtime.catalog.quarantine.record("object", "stray.pack", "nobody knows it", now, budget=1)
    await ask("quarantine", "list")
    await ask("quarantine", "retry", "stray.pack")
    await ask("quarantine", "drop", "stray.pack")
    return json.dumps(found, indent=1, sort_keys=True) + "\n"
