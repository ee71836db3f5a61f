-- The whole file: a state is a table, and a message's own row lies still while it is moved about.

-- :: tables
CREATE TABLE meta(boot_id TEXT NOT NULL) STRICT;

CREATE TABLE queue(no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;

-- A table of its own: every look asks it, and it is empty but for what somebody paused.
CREATE TABLE paused(queue INTEGER PRIMARY KEY) STRICT;

-- AUTOINCREMENT, because a settlement finds its message by seq and fence: were a seq used again, a
-- stale acknowledgement could end another message. `args` is last: what follows a long value is slow.
-- `fence` is the one of the last lease that ended; the one of a running lease is in its own row.
-- `overdue`: that last lease ran out, and its holder may still settle it until the next claim.
-- `since_ms`: from when on it may be had, as last said. A row of `scheduled` has the same as its
-- `due_ms`, and is found by it.
CREATE TABLE message(
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id BLOB NOT NULL UNIQUE,
  queue INTEGER NOT NULL,
  task TEXT NOT NULL,
  due_ms INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  visibility_timeout_ms INTEGER NOT NULL,
  timeout_ms INTEGER NOT NULL,
  max_attempts INTEGER NOT NULL,
  max_crashes INTEGER NOT NULL,
  max_lost INTEGER NOT NULL,
  unique_key TEXT,
  headers TEXT,
  version INTEGER NOT NULL,
  since_ms INTEGER NOT NULL,
  fence INTEGER NOT NULL DEFAULT 0,
  failures INTEGER NOT NULL DEFAULT 0,
  crashes INTEGER NOT NULL DEFAULT 0,
  lost INTEGER NOT NULL DEFAULT 0,
  overdue INTEGER NOT NULL DEFAULT 0,
  args BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX message_key ON message(unique_key) WHERE unique_key IS NOT NULL;

CREATE TABLE ready(
  queue INTEGER NOT NULL,
  rank INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  PRIMARY KEY(queue, rank, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE scheduled(
  due_ms INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  queue INTEGER NOT NULL,
  rank INTEGER NOT NULL,
  PRIMARY KEY(due_ms, seq)
) STRICT, WITHOUT ROWID;

-- No index on expiry_ms: it would cost every claim and every settlement, to spare a scan a second.
CREATE TABLE lease(
  seq INTEGER PRIMARY KEY,
  fence INTEGER NOT NULL,
  expiry_ms INTEGER NOT NULL,
  queue INTEGER NOT NULL
) STRICT;

-- The message's own row stays, so that its id is still taken; its unique key is kept here only.
CREATE TABLE dead(
  no INTEGER PRIMARY KEY AUTOINCREMENT,
  seq INTEGER NOT NULL UNIQUE,
  queue INTEGER NOT NULL,
  died_ms INTEGER NOT NULL,
  reason TEXT NOT NULL,
  error TEXT NOT NULL,
  unique_key TEXT
) STRICT;
CREATE INDEX dead_by_queue ON dead(queue);

-- How the last leases of a message ended that were neither acknowledged nor given back.
CREATE TABLE attempt(
  seq INTEGER NOT NULL,
  fence INTEGER NOT NULL,
  at_ms INTEGER NOT NULL,
  charge TEXT NOT NULL,
  error TEXT NOT NULL,
  PRIMARY KEY(seq, fence)
) STRICT, WITHOUT ROWID;

-- A message and all that is known of it, for people. (No ORDER BY among an aggregate's arguments: a
-- SQLite before 3.44 could not even open the file.)
CREATE VIEW seen AS
SELECT m.id, q.name AS queue, m.task, m.args, m.due_ms, m.priority, m.visibility_timeout_ms,
  m.timeout_ms, m.max_attempts, m.max_crashes, m.max_lost, coalesce(m.unique_key, d.unique_key),
  m.headers, m.version,
  coalesce((SELECT fence FROM lease WHERE lease.seq = m.seq), m.fence), m.failures, m.crashes, m.lost,
  m.since_ms, d.died_ms, d.reason, d.error,
  (SELECT expiry_ms FROM lease WHERE lease.seq = m.seq),
  (SELECT s.due_ms FROM scheduled s WHERE s.due_ms = m.since_ms AND s.seq = m.seq),
  (SELECT json_group_array(json_array(a.fence, a.at_ms, a.charge, json(a.error)))
    FROM attempt a WHERE a.seq = m.seq) AS attempts,
  m.seq
FROM message m CROSS JOIN queue q ON q.no = m.queue LEFT JOIN dead d ON d.seq = m.seq;

-- What the last publisher that stored what others had left was to answer, in case it died first.
CREATE TABLE told(answers BLOB NOT NULL) STRICT;
INSERT INTO told VALUES (x'');

CREATE TABLE result(id BLOB PRIMARY KEY, value BLOB, expires_ms INTEGER NOT NULL) STRICT;
CREATE INDEX result_expiry ON result(expires_ms);

PRAGMA application_id = 0x64696273; -- "dibs"
PRAGMA user_version = 3
