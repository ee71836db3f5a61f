-- What people move: dead letters, and queues as a whole. Whatever is named here is looked for in the
-- state that it is to be moved from, with the lock held: what is not there any more is left alone.

-- :: dead_letter
SELECT d.seq, q.name, (SELECT h.id FROM message h WHERE h.unique_key = d.unique_key)
FROM message m JOIN dead d ON d.seq = m.seq JOIN queue q ON q.no = d.queue WHERE m.id = ?

-- :: redrive
UPDATE message SET unique_key = (SELECT unique_key FROM dead WHERE dead.seq = message.seq),
  failures = 0, crashes = 0, lost = 0, since_ms = :now WHERE seq = :seq;
DELETE FROM dead WHERE seq = :seq;
INSERT INTO ready SELECT queue, 9 - priority, seq FROM message WHERE seq = :seq

-- :: discard
DELETE FROM dead WHERE seq IN (SELECT value FROM carray(:seqs));
DELETE FROM attempt WHERE seq IN (SELECT value FROM carray(:seqs));
DELETE FROM message WHERE seq IN (SELECT value FROM carray(:seqs))

-- :: last_published
SELECT coalesce(max(seq), 0) FROM message

-- :: purgeable
WITH chosen(no) AS (SELECT no FROM queue WHERE name = :queue)
SELECT seq FROM chosen CROSS JOIN ready ON queue = no WHERE seq <= :last
UNION ALL
SELECT seq FROM chosen CROSS JOIN scheduled ON queue = no WHERE seq <= :last
UNION ALL
SELECT seq FROM chosen CROSS JOIN lease ON queue = no WHERE seq <= :last AND expiry_ms <= :boot
LIMIT :page

-- What is scheduled is found by when it is to be had.
-- :: purge
DELETE FROM ready WHERE (queue, rank, seq) IN (
  SELECT queue, 9 - priority, seq FROM carray(:seqs) CROSS JOIN message ON seq = value
);
DELETE FROM scheduled WHERE (due_ms, seq) IN (
  SELECT since_ms, seq FROM carray(:seqs) CROSS JOIN message ON seq = value
);
DELETE FROM lease WHERE seq IN (SELECT value FROM carray(:seqs));
DELETE FROM attempt WHERE seq IN (SELECT value FROM carray(:seqs));
DELETE FROM message WHERE seq IN (SELECT value FROM carray(:seqs))

-- :: pause
INSERT INTO paused SELECT no FROM queue WHERE name = ? ON CONFLICT DO NOTHING

-- :: resume
DELETE FROM paused WHERE queue = (SELECT no FROM queue WHERE name = ?)
