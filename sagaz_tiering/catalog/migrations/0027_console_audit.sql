-- Who changed something in the console: what, when, from where, why, and what came of it. Nothing is deleted here.
CREATE TABLE sagaz_tiering.console_audit (
    audit_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL,
    who       text NOT NULL,
    address   text NOT NULL,
    action    text NOT NULL,
    subject   text NOT NULL,
    reason    text NOT NULL,
    outcome   text
);
