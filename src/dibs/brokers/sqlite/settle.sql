-- Ending and renewing leases. Every statement names the fence with the seq.

-- :: end_leases
DELETE FROM lease WHERE seq IN (SELECT value FROM carray(?)) AND fence = ? AND expiry_ms > ?

-- :: end_lease
DELETE FROM lease WHERE seq = ? AND fence = ? RETURNING expiry_ms

-- :: revive
UPDATE message SET overdue = 0 WHERE seq = ? AND fence = ? AND overdue = 1
RETURNING queue, 9 - priority, seq

-- :: unready
DELETE FROM ready WHERE queue = ? AND rank = ? AND seq = ?

-- :: alive
SELECT 1 FROM message WHERE seq = ?1 AND NOT EXISTS (SELECT 1 FROM dead WHERE seq = ?1)

-- :: forget
DELETE FROM message WHERE seq IN (SELECT value FROM carray(?))

-- :: forget_attempts
DELETE FROM attempt WHERE seq IN (SELECT value FROM carray(?))

-- Ids and values are as in publish.sql.
-- :: keep_results
INSERT OR REPLACE INTO result SELECT substr(?1, 16 * rowid - 15, 16), value, ?3 FROM carray(?2)

-- :: keep_ends
INSERT OR REPLACE INTO result SELECT value, NULL, ?2 FROM carray(?1)

-- Every other end of a lease. A dead letter has a :reason; what is given back has no :error.
-- :: end_otherwise
INSERT INTO dead SELECT NULL, seq, queue, :now, :reason, :error, unique_key FROM message
WHERE seq = :seq AND :reason IS NOT NULL;
UPDATE message SET fence = :fence, failures = failures + (:charge = 'failure'),
  crashes = crashes + (:charge = 'crash'), since_ms = :since,
  unique_key = iif(:reason IS NULL, unique_key, NULL)
WHERE seq = :seq;
INSERT INTO ready SELECT queue, 9 - priority, seq FROM message
WHERE seq = :seq AND :reason IS NULL AND :since <= :now;
INSERT INTO scheduled SELECT :since, seq, queue, 9 - priority FROM message
WHERE seq = :seq AND :reason IS NULL AND :since > :now;
INSERT INTO attempt SELECT :seq, :fence, :now, :charge, :error WHERE :error IS NOT NULL;
DELETE FROM attempt WHERE seq = :seq AND fence <= (
  SELECT fence FROM attempt WHERE seq = :seq ORDER BY fence DESC LIMIT 1 OFFSET :kept
)

-- :: extend
UPDATE lease SET expiry_ms = max(expiry_ms, ?3) WHERE seq = ?1 AND fence = ?2 RETURNING expiry_ms

-- :: lease_again
INSERT INTO lease VALUES (?, ?, ?, ?)

-- How those of the given ids ended that did, each with its place among them.
-- :: results
SELECT asked.rowid - 1, r.value, d.reason, d.error,
  (SELECT attempts FROM seen WHERE seen.seq = d.seq),
  m.id IS NOT NULL OR r.id IS NOT NULL
FROM carray(?1) asked
LEFT JOIN message m ON m.id = asked.value
LEFT JOIN dead d ON d.seq = m.seq
LEFT JOIN result r ON m.id IS NULL AND r.id = asked.value AND r.expires_ms > ?2
WHERE m.id IS NULL OR d.seq IS NOT NULL
