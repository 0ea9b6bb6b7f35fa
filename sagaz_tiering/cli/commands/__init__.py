"""The commands: which verbs are in which module.

    catalog   catalog
    diff      diff
    find      find
    holds     hold, release, holds, forget, erasures
    jobs      job, quarantine
    keys      keys
    plan      plan, policy
    replay    replay
    restore   restore, restores, cancel-restore
    snapshot  timeline, show, explain
    start     init, run, demo, doctor, torture, console-token
    status    status
    transfer  transfer, export

`cli/app.py` registers them; its tables say the same.
"""
