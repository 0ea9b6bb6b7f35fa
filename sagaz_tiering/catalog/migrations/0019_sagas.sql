-- Where each saga ends: rules that hold for a saga as a whole look at its newest snapshot. One row a saga, whatever tier
-- its snapshots are in. Triggers keep it with every save, so that applications of an earlier version do so as well.

CREATE TABLE sagaz_tiering.sagas (
    ended_at  timestamptz NOT NULL,            -- created_at of its newest snapshot
    kept_us   bigint,                          -- until when archiving part of it promised to keep it (microseconds since
                                               -- 1970; the largest: for ever; -2^62: not by a rule; NULL: no part is)
    end_step  integer NOT NULL,
    changed   boolean NOT NULL DEFAULT false,  -- went on after part of it was archived: expiry is decided anew
    saga_id   uuid PRIMARY KEY,
    end_id    uuid NOT NULL,
    status    text NOT NULL
) WITH (fillfactor = 90);
CREATE INDEX sagas_changed ON sagaz_tiering.sagas (saga_id) WHERE changed;

-- Sagas up to this id are in the table; NULL: all are. Until then the others are looked up in what there is of them.
CREATE TABLE sagaz_tiering.sagas_filled (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    up_to     uuid
);
INSERT INTO sagaz_tiering.sagas_filled (up_to)
SELECT CASE WHEN EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots) OR EXISTS (SELECT 1 FROM sagaz_tiering.frames)
              OR EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves)
            THEN '00000000-0000-0000-0000-000000000000'::uuid END;

-- What there is of these sagas says where each ends, and what was promised of it.
CREATE FUNCTION sagaz_tiering.ends_in_tables(ids uuid[])
RETURNS TABLE (saga_id uuid, ended_at timestamptz, end_step integer, end_id uuid, status text, kept_us bigint)
LANGUAGE sql STABLE AS $$
    WITH archived AS (
        SELECT f.saga_id, s.created_at, t.step_index, s.snapshot_id, t.status, s.expires_at
          FROM sagaz_tiering.frames f
          JOIN sagaz_tiering.snapshots s USING (pack_id, frame_no)
          JOIN sagaz_tiering.steps t USING (step_id)
         WHERE f.saga_id = ANY(ids)),
    found AS (
        SELECT d.saga_id, d.created_at, d.step_index, d.snapshot_id, d.status
          FROM sagaz_tiering.saga_snapshots d WHERE d.saga_id = ANY(ids)
        UNION ALL
        SELECT h.saga_id, h.created_at, h.step_index, h.snapshot_id, h.status
          FROM sagaz_tiering.hot_saves h
         WHERE h.saga_id = ANY(ids)
           AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d
                            WHERE d.snapshot_id = h.snapshot_id AND d.saved_at > h.saved_at)
        UNION ALL
        SELECT a.saga_id, a.created_at, a.step_index, a.snapshot_id, a.status
          FROM archived a
         WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d WHERE d.snapshot_id = a.snapshot_id)
           AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves h WHERE h.snapshot_id = a.snapshot_id)),
    newest AS (
        SELECT DISTINCT ON (n.saga_id) n.* FROM found n
         ORDER BY n.saga_id, n.created_at DESC, n.step_index DESC, n.snapshot_id DESC)
    SELECT n.saga_id, n.created_at, n.step_index, n.snapshot_id, n.status,
           (SELECT max(coalesce((extract(epoch FROM a.expires_at) * 1000000)::bigint, 9223372036854775807))
              FROM archived a WHERE a.saga_id = n.saga_id)
      FROM newest n
     ORDER BY n.saga_id
$$;

-- The same, as the table has it where it has them all.
CREATE FUNCTION sagaz_tiering.saga_ends(ids uuid[])
RETURNS TABLE (saga_id uuid, ended_at timestamptz, end_step integer, end_id uuid, status text, kept_us bigint)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    filled uuid := (SELECT coalesce(up_to, 'ffffffff-ffff-ffff-ffff-ffffffffffff') FROM sagaz_tiering.sagas_filled);
    rest uuid[] := ARRAY(SELECT id FROM unnest(ids) AS u (id) WHERE id > filled);
BEGIN
    RETURN QUERY SELECT g.saga_id, g.ended_at, g.end_step, g.end_id, g.status, g.kept_us
                   FROM sagaz_tiering.sagas g WHERE g.saga_id = ANY(ids) AND g.saga_id <= filled;
    IF rest <> '{}' THEN
        RETURN QUERY SELECT * FROM sagaz_tiering.ends_in_tables(rest);
    END IF;
END $$;

-- Look at what there is of these sagas: after something of them went for good, or was put elsewhere.
CREATE FUNCTION sagaz_tiering.refresh_sagas(ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- Whoever saves one of them now waits for us and adds to it, or was before us and is seen.
    PERFORM 1 FROM sagaz_tiering.sagas g WHERE g.saga_id = ANY(ids) ORDER BY g.saga_id FOR UPDATE;
    INSERT INTO sagaz_tiering.sagas AS g (ended_at, end_step, saga_id, end_id, status)
    SELECT e.ended_at, e.end_step, e.saga_id, e.end_id, e.status FROM sagaz_tiering.ends_in_tables(ids) e
    ON CONFLICT (saga_id) DO UPDATE
       SET ended_at = excluded.ended_at, end_step = excluded.end_step, end_id = excluded.end_id,
           status = excluded.status, changed = g.changed OR g.kept_us IS NOT NULL
     WHERE (excluded.ended_at, excluded.end_step, excluded.end_id, excluded.status)
           IS DISTINCT FROM (g.ended_at, g.end_step, g.end_id, g.status);
    DELETE FROM sagaz_tiering.sagas g
     WHERE g.saga_id = ANY(ids)
       AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.ends_in_tables(ids) e WHERE e.saga_id = g.saga_id);
END $$;

CREATE FUNCTION sagaz_tiering.note_saga_ends() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    anew uuid[];
    ended bigint;
BEGIN
    INSERT INTO sagaz_tiering.sagas AS g (ended_at, end_step, saga_id, end_id, status)
    SELECT DISTINCT ON (n.saga_id) n.created_at, n.step_index, n.saga_id, n.snapshot_id, n.status
      FROM saved n ORDER BY n.saga_id, n.created_at DESC, n.step_index DESC, n.snapshot_id DESC
    ON CONFLICT (saga_id) DO UPDATE
       SET ended_at = excluded.ended_at, end_step = excluded.end_step, end_id = excluded.end_id,
           status = excluded.status, changed = g.changed OR g.kept_us IS NOT NULL
     WHERE (excluded.ended_at, excluded.end_step, excluded.end_id) > (g.ended_at, g.end_step, g.end_id);
    GET DIAGNOSTICS ended = ROW_COUNT;
    IF ended = (SELECT count(*) FROM saved) THEN
        RETURN NULL;
    END IF;
    anew := ARRAY(SELECT g.saga_id FROM saved n JOIN sagaz_tiering.sagas g ON g.saga_id = n.saga_id AND g.end_id = n.snapshot_id
                   WHERE (n.created_at, n.step_index, n.status) IS DISTINCT FROM (g.ended_at, g.end_step, g.status));
    IF anew <> '{}' THEN  -- the newest one is archived, and saved anew with another time or status
        PERFORM sagaz_tiering.refresh_sagas(anew);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER saves_end_sagas AFTER INSERT ON sagaz_tiering.saga_snapshots REFERENCING NEW TABLE AS saved
    FOR EACH STATEMENT EXECUTE FUNCTION sagaz_tiering.note_saga_ends();
CREATE TRIGGER saves_end_sagas AFTER INSERT ON sagaz_tiering.hot_saves REFERENCING NEW TABLE AS saved
    FOR EACH STATEMENT EXECUTE FUNCTION sagaz_tiering.note_saga_ends();

CREATE FUNCTION sagaz_tiering.refresh_saved_anew() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM sagaz_tiering.refresh_sagas(ARRAY(SELECT DISTINCT id FROM unnest(ARRAY[OLD.saga_id, NEW.saga_id]) AS u (id)
                                               ORDER BY id));
    RETURN NULL;
END $$;
CREATE TRIGGER saved_anew_ends_sagas AFTER UPDATE OF saga_id, created_at, step_index, status
    ON sagaz_tiering.saga_snapshots FOR EACH ROW
    WHEN ((OLD.saga_id, OLD.created_at, OLD.step_index, OLD.status)
          IS DISTINCT FROM (NEW.saga_id, NEW.created_at, NEW.step_index, NEW.status))
    EXECUTE FUNCTION sagaz_tiering.refresh_saved_anew();
CREATE TRIGGER saved_anew_ends_sagas AFTER UPDATE OF saga_id, created_at, step_index, status
    ON sagaz_tiering.hot_saves FOR EACH ROW
    WHEN ((OLD.saga_id, OLD.created_at, OLD.step_index, OLD.status)
          IS DISTINCT FROM (NEW.saga_id, NEW.created_at, NEW.step_index, NEW.status))
    EXECUTE FUNCTION sagaz_tiering.refresh_saved_anew();

-- Part of these sagas is in a pack from now on: its newest snapshot there, and what that promises. A saga that went on
-- while it was packed, or of which other parts are in packs, is to be looked at again.
CREATE FUNCTION sagaz_tiering.note_archived(ended_at timestamptz[], kept_us bigint[], end_step integer[], saga_id uuid[],
                                            end_id uuid[], status text[])
RETURNS void LANGUAGE sql AS $$
    INSERT INTO sagaz_tiering.sagas AS g (ended_at, kept_us, end_step, saga_id, end_id, status)
    SELECT * FROM unnest($1, $2, $3, $4, $5, $6) AS v (ended_at, kept_us, end_step, saga_id, end_id, status)
     ORDER BY v.saga_id
    ON CONFLICT (saga_id) DO UPDATE
       SET (ended_at, end_step, end_id, status) = (
               SELECT n.* FROM (VALUES (excluded.ended_at, excluded.end_step, excluded.end_id, excluded.status),
                                       (g.ended_at, g.end_step, g.end_id, g.status)) AS n (a, b, c, d)
                ORDER BY a DESC, b DESC, c DESC LIMIT 1),
           kept_us = greatest(g.kept_us, excluded.kept_us),
           changed = g.changed OR (excluded.ended_at, excluded.end_step, excluded.end_id) <> (g.ended_at, g.end_step, g.end_id)
                     OR coalesce(g.kept_us <> excluded.kept_us, false)
$$;

-- The next `most` sagas come into the table; whether all are there.
CREATE FUNCTION sagaz_tiering.fill_sagas(most integer) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    so_far uuid;
    ids uuid[];
BEGIN
    SELECT up_to INTO so_far FROM sagaz_tiering.sagas_filled FOR UPDATE;
    IF so_far IS NULL THEN
        RETURN true;
    END IF;
    ids := ARRAY(SELECT f.saga_id FROM (
        (SELECT DISTINCT d.saga_id FROM sagaz_tiering.saga_snapshots d WHERE d.saga_id > so_far ORDER BY 1 LIMIT most)
        UNION
        (SELECT DISTINCT f.saga_id FROM sagaz_tiering.frames f WHERE f.saga_id > so_far ORDER BY 1 LIMIT most)
        UNION
        (SELECT DISTINCT h.saga_id FROM sagaz_tiering.hot_saves h WHERE h.saga_id > so_far ORDER BY 1 LIMIT most)
    ) AS f (saga_id) ORDER BY 1 LIMIT most);
    PERFORM sagaz_tiering.note_archived(array_agg(e.ended_at), array_agg(e.kept_us), array_agg(e.end_step),
                                        array_agg(e.saga_id), array_agg(e.end_id), array_agg(e.status))
       FROM sagaz_tiering.ends_in_tables(ids) e;
    UPDATE sagaz_tiering.sagas_filled SET up_to = ids[array_length(ids, 1)];
    RETURN ids = '{}';
END $$;

-- What goes for good: where it was the end of its saga, an earlier snapshot is from now on, or nothing is left. What only
-- leaves a table for another one is in that already. What expired was the end of its saga still: by that the rest of the
-- saga is judged, which has another date of its own or is in another tier, until that is gone too. Else a saga that failed
-- would be one that runs once its end is removed.
CREATE FUNCTION sagaz_tiering.follow_deletions() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    expiring boolean := current_setting('sagaz_tiering.expiring', true) = 'on';
    touched uuid[];
    ended uuid[];
BEGIN
    IF TG_TABLE_NAME = 'snapshots' THEN
        touched := ARRAY(SELECT DISTINCT f.saga_id FROM gone o
                           JOIN sagaz_tiering.frames f ON f.pack_id = o.pack_id AND f.frame_no = o.frame_no);
    ELSIF expiring THEN
        touched := ARRAY(SELECT DISTINCT o.saga_id FROM gone o);
    END IF;
    IF expiring THEN
        ended := '{}';
    ELSIF TG_TABLE_NAME = 'snapshots' THEN
        ended := ARRAY(SELECT DISTINCT g.saga_id FROM gone o
                         JOIN sagaz_tiering.frames f ON f.pack_id = o.pack_id AND f.frame_no = o.frame_no
                         JOIN sagaz_tiering.sagas g ON g.saga_id = f.saga_id AND g.end_id = o.snapshot_id
                        WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d
                                           WHERE d.snapshot_id = o.snapshot_id AND d.saga_id = g.saga_id)
                          AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves h
                                           WHERE h.snapshot_id = o.snapshot_id AND h.saga_id = g.saga_id));
    ELSE
        ended := ARRAY(SELECT DISTINCT g.saga_id FROM gone o
                         JOIN sagaz_tiering.sagas g ON g.saga_id = o.saga_id AND g.end_id = o.snapshot_id
                        WHERE NOT EXISTS (SELECT 1 FROM sagaz_tiering.snapshots s WHERE s.snapshot_id = o.snapshot_id));
    END IF;
    IF ended <> '{}' THEN
        PERFORM sagaz_tiering.refresh_sagas(ended);
    END IF;
    DELETE FROM sagaz_tiering.sagas g
     WHERE g.saga_id = ANY(touched)
       AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.frames f
                         JOIN sagaz_tiering.snapshots s ON s.pack_id = f.pack_id AND s.frame_no = f.frame_no
                        WHERE f.saga_id = g.saga_id)
       AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.saga_snapshots d WHERE d.saga_id = g.saga_id)
       AND NOT EXISTS (SELECT 1 FROM sagaz_tiering.hot_saves h WHERE h.saga_id = g.saga_id);
    RETURN NULL;
END $$;
CREATE TRIGGER deletions_end_sagas AFTER DELETE ON sagaz_tiering.saga_snapshots REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION sagaz_tiering.follow_deletions();
CREATE TRIGGER deletions_end_sagas AFTER DELETE ON sagaz_tiering.hot_saves REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION sagaz_tiering.follow_deletions();
CREATE TRIGGER deletions_end_sagas AFTER DELETE ON sagaz_tiering.snapshots REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION sagaz_tiering.follow_deletions();
