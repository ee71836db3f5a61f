-- Storing messages that differ in id and arguments only. The ids are one long value, the arguments an
-- array: so a batch is one statement, which runs without the interpreter's lock from the first row to
-- the last while more is being encoded.

-- :: insert
INSERT INTO message(queue, task, due_ms, priority, visibility_timeout_ms, timeout_ms, max_attempts,
  max_crashes, max_lost, unique_key, version, headers, since_ms, id, args)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, max(?13, ?3),
  substr(?14, 16 * rowid - 15, 16), value
FROM carray(?15) WHERE true
ON CONFLICT DO NOTHING

-- :: make_ready
INSERT INTO ready SELECT queue, 9 - priority, seq FROM message
WHERE seq BETWEEN ? AND ? AND due_ms <= ?

-- :: schedule
INSERT INTO scheduled SELECT due_ms, seq, queue, 9 - priority FROM message
WHERE seq BETWEEN ? AND ? AND due_ms > ?

-- :: holder
SELECT id FROM message WHERE id = ?1
UNION ALL
SELECT id FROM message WHERE unique_key = ?2
LIMIT 1

-- Nothing may be before it in its queue. (What is leased and runs out just now is met by a claim.)
-- :: hand_over
INSERT INTO lease SELECT seq, 1, :expiry, queue FROM message m
WHERE seq = :seq AND due_ms <= :now AND NOT EXISTS (SELECT 1 FROM ready WHERE queue = m.queue)
AND NOT EXISTS (SELECT 1 FROM scheduled WHERE due_ms <= :now)
AND queue NOT IN (SELECT queue FROM paused)

-- :: told
SELECT answers FROM told

-- :: keep_told
UPDATE told SET answers = ?
