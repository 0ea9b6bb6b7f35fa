-- What the bucket may say: packs and frames are believed only as far as these digests vouch for them (NULL: published
-- before there were any; `scrub` fills them in once the whole object was compared with packs.sha256).
ALTER TABLE sagaz_tiering.packs ADD COLUMN footer_digest bytea;   -- sha256 of footer and tail, which a footer copy holds
ALTER TABLE sagaz_tiering.frames ADD COLUMN digest uuid;          -- 16 bytes of BLAKE2b over the frame's header
UPDATE sagaz_tiering.packs SET scrubbed_at = NULL WHERE state = 'ACTIVE';
