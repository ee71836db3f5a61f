-- Looking, which writes nothing, and granting. `rank` is 9 - priority.

-- When the next falls due, as queue 0, and which queues have something to be granted.
-- :: look
SELECT 0, due_ms FROM (SELECT due_ms FROM scheduled ORDER BY due_ms LIMIT 1)
UNION ALL
SELECT value, NULL FROM carray(?)
WHERE EXISTS (SELECT 1 FROM ready WHERE queue = value) AND value NOT IN (SELECT queue FROM paused)

-- :: first_expiry
SELECT min(expiry_ms) FROM lease

-- The leases are counted up to 101: past 100, when the first expires is not worth a scan.
-- :: next_moments
SELECT (SELECT due_ms FROM scheduled ORDER BY due_ms LIMIT 1), count(*), min(expiry_ms)
FROM (SELECT expiry_ms FROM lease LIMIT 101)

-- :: promote
INSERT INTO ready
SELECT queue, rank, seq FROM scheduled WHERE due_ms <= :now ORDER BY due_ms, seq LIMIT :page;
DELETE FROM scheduled WHERE (due_ms, seq) IN
(SELECT due_ms, seq FROM scheduled WHERE due_ms <= :now ORDER BY due_ms, seq LIMIT :page)

-- :: expired
SELECT seq FROM lease WHERE expiry_ms <= ? ORDER BY seq LIMIT ?

-- :: sweep
UPDATE message SET overdue = 1, fence = (SELECT fence FROM lease WHERE lease.seq = message.seq)
WHERE seq IN (SELECT value FROM carray(:seqs));
INSERT INTO ready SELECT m.queue, 9 - m.priority, m.seq FROM carray(:seqs) CROSS JOIN message m
ON m.seq = value;
DELETE FROM lease WHERE seq IN (SELECT value FROM carray(:seqs))

-- :: grant
SELECT m.id, m.queue, m.task, m.args, m.due_ms, m.priority, m.visibility_timeout_ms, m.timeout_ms,
  m.max_attempts, m.max_crashes, m.max_lost, m.unique_key, m.headers, m.version, m.fence + 1,
  m.failures, m.crashes, m.lost + m.overdue, m.seq, m.overdue
FROM ready r CROSS JOIN message m ON m.seq = r.seq
WHERE r.queue = ? ORDER BY r.rank, r.seq LIMIT ?

-- :: lease
INSERT INTO lease SELECT m.seq, m.fence + 1, :boot + m.visibility_timeout_ms, :queue
FROM ready r CROSS JOIN message m ON m.seq = r.seq
WHERE r.queue = :queue AND (r.rank, r.seq) <= (:rank, :seq);
DELETE FROM ready WHERE queue = :queue AND (rank, seq) <= (:rank, :seq)

-- :: count_lost
UPDATE message SET lost = lost + 1, overdue = 0 WHERE seq IN (SELECT value FROM carray(?))
