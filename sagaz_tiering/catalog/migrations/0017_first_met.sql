-- A Redis that was believed from the first time it was met on has no other time of being whole: that counts from now on.
UPDATE sagaz_tiering.hot_tier SET reconciled_at = changed_at
 WHERE nonce IS NOT NULL AND trusted AND reconciled_at IS NULL;
