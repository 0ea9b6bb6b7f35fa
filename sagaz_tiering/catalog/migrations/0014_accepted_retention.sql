-- One row: the retention rules that `expire` accepted last. What they promise holds, for every reader and job, until it
-- has accepted others: a shorter `retain` goes past its guard first. Before the first run there is none.
CREATE TABLE sagaz_tiering.accepted_retention (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    number       bigint NOT NULL DEFAULT 1,         -- grows with each change, so that readers fetch it once
    accepted_at  timestamptz NOT NULL,
    policies     json NOT NULL
);
INSERT INTO sagaz_tiering.accepted_retention (accepted_at, policies)
SELECT first_seen, policies FROM sagaz_tiering.policy_revisions ORDER BY first_seen DESC LIMIT 1;
