-- Names, boots and chores: what is not about one message.

-- :: boot
SELECT boot_id FROM meta

-- :: another_boot
UPDATE lease SET expiry_ms = 0 WHERE NOT EXISTS (SELECT 1 FROM meta WHERE boot_id = :boot);
DELETE FROM meta WHERE boot_id <> :boot;
INSERT INTO meta SELECT :boot WHERE NOT EXISTS (SELECT 1 FROM meta)

-- :: add_queue
INSERT INTO queue(name) VALUES (?) ON CONFLICT DO NOTHING

-- :: queue_number
SELECT name, no FROM queue WHERE name = ?

-- :: chores
SELECT (SELECT freelist_count > 256 FROM pragma_freelist_count)
  OR EXISTS (SELECT 1 FROM result WHERE expires_ms <= ?)

-- :: prune_results
DELETE FROM result WHERE rowid IN (SELECT rowid FROM result WHERE expires_ms <= ? LIMIT ?)

-- :: do_chores
DELETE FROM result WHERE rowid IN (SELECT rowid FROM result WHERE expires_ms <= ? LIMIT 1000);
PRAGMA incremental_vacuum(1024)
