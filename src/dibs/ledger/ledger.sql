-- The ledger, in words that SQLite and PostgreSQL share. Every `?` is written as the driver wants it.

-- `job` and `fence` are those of the run that did it; without a job there is no fence to compare.
-- :: create
CREATE TABLE IF NOT EXISTS dibs_ledger (
    key TEXT NOT NULL PRIMARY KEY,
    job TEXT,
    fence BIGINT NOT NULL,
    done_ms BIGINT NOT NULL,
    result TEXT
)

-- A row that another transaction has written and not committed makes this wait for its end.
-- :: insert
INSERT INTO dibs_ledger (key, job, fence, done_ms) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO NOTHING

-- The fences of two jobs say nothing about each other.
-- :: find
SELECT CASE WHEN job = ? THEN fence END, result FROM dibs_ledger WHERE key = ?

-- :: record
UPDATE dibs_ledger SET result = ? WHERE key = ?

-- :: count_old
SELECT count(*) FROM dibs_ledger WHERE done_ms < ?

-- :: delete_old
DELETE FROM dibs_ledger WHERE done_ms < ?

-- :: exists_in_sqlite
SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'dibs_ledger'

-- :: exists_in_postgresql
SELECT 1 WHERE to_regclass('dibs_ledger') IS NOT NULL

-- Two that make the table at the same time collide in the catalogue; they stand in line here.
-- :: lock_in_postgresql
SELECT pg_advisory_xact_lock(7235422524226757735)

-- :: owner_in_sqlite
PRAGMA application_id
