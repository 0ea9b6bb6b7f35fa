-- Sagas that did not complete are few, and looked for most: by name and status. A status may be too long for an index.
CREATE INDEX sagas_status ON sagaz_tiering.sagas (name_id, hashtext(status), place)
 WHERE place IS NOT NULL AND status <> 'completed';
