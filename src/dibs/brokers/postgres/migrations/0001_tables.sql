-- The tables. A state is a table, as in the embedded broker: a message's own row is written once and
-- lies still while narrow rows say where it is. So a claim writes no arguments again, a renewed lease
-- touches no index, and what dies at every job is narrow. (Decision 0022.)
--
-- Every migration runs with the schema alone on the search path, which functions take with them.
-- Text that PostgreSQL cannot hold (a zero byte) is escaped as in JSON, so that plain text stays plain.

CREATE TABLE migration(
  version integer PRIMARY KEY,
  name text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now()
);

-- Tells this store from any other: a job enqueued on a caller's connection must not land elsewhere.
CREATE TABLE meta(store uuid NOT NULL);
INSERT INTO meta SELECT gen_random_uuid();

-- The one clock. Replaced by nobody but tests, which let time pass at will.
CREATE FUNCTION now_ms() RETURNS bigint LANGUAGE sql VOLATILE
AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

CREATE TABLE queue(
  no integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text COLLATE "C" NOT NULL UNIQUE,
  paused boolean NOT NULL DEFAULT false
);

-- A publish draws one number and has room for 8,192 messages from there on: publish order.
CREATE SEQUENCE place INCREMENT BY 8192;

-- `seq` is never used again, an id may be: a settlement names both, so an old one ends no later
-- message. `fence` is that of the last lease that ended; a running lease has its own. `since_ms`: from when
-- on it may be had, as last said; a row of `scheduled` has the same as its `due_ms`, and is found by it.
CREATE TABLE message(
  id uuid PRIMARY KEY,
  seq bigint NOT NULL,
  due_ms bigint NOT NULL,
  visibility_timeout_ms bigint NOT NULL,
  timeout_ms bigint NOT NULL,
  version bigint NOT NULL,
  since_ms bigint NOT NULL,
  queue integer NOT NULL,
  max_attempts integer NOT NULL,
  max_crashes integer NOT NULL,
  max_lost integer NOT NULL,
  fence integer NOT NULL DEFAULT 0,
  failures integer NOT NULL DEFAULT 0,
  crashes integer NOT NULL DEFAULT 0,
  lost integer NOT NULL DEFAULT 0,
  priority smallint NOT NULL,
  task text NOT NULL,
  unique_key text COLLATE "C",
  headers text,
  args bytea NOT NULL
);
CREATE UNIQUE INDEX message_key ON message(unique_key) WHERE unique_key IS NOT NULL;

-- `rank` is 9 - priority. `fresh`: of priority 0, published to be had at once, and never claimed: these
-- are taken from the front in publish order, so a claim goes on where the last one ended and does not
-- walk over the dead rows that the last million jobs left. All else is looked for from the start.
-- `overdue` is the fence of a lease that ran out: its holder may still settle it until the next claim.
CREATE TABLE ready(
  queue integer NOT NULL,
  fresh boolean NOT NULL,
  rank smallint NOT NULL,
  seq bigint NOT NULL,
  id uuid NOT NULL,
  overdue integer,
  PRIMARY KEY(queue, fresh, rank, seq)
);

CREATE TABLE scheduled(
  due_ms bigint NOT NULL,
  seq bigint NOT NULL,
  id uuid NOT NULL,
  queue integer NOT NULL,
  rank smallint NOT NULL,
  PRIMARY KEY(due_ms, seq)
);

-- No index on expiry_ms, and room in each page: a renewed lease is a heap-only update. Who has run out
-- is found by a scan, once a second for all workers together (`upkeep`).
CREATE TABLE lease(
  id uuid PRIMARY KEY,
  seq bigint NOT NULL,
  expiry_ms bigint NOT NULL,
  fence integer NOT NULL,
  queue integer NOT NULL,
  rank smallint NOT NULL
) WITH (fillfactor = 60);

CREATE TABLE upkeep(next_ms bigint NOT NULL);
INSERT INTO upkeep VALUES (0);

-- The message's own row stays, so that its id is still taken; its unique key is kept here only.
CREATE TABLE dead(
  no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  id uuid NOT NULL UNIQUE,
  died_ms bigint NOT NULL,
  queue integer NOT NULL,
  reason text NOT NULL,
  error text NOT NULL,
  unique_key text COLLATE "C"
);
CREATE INDEX dead_by_queue ON dead(queue, no);

-- How the last leases of a message ended that were neither acknowledged nor given back.
CREATE TABLE attempt(
  id uuid NOT NULL,
  fence integer NOT NULL,
  at_ms bigint NOT NULL,
  charge text NOT NULL,
  error text NOT NULL,
  PRIMARY KEY(id, fence)
);

CREATE TABLE result(id uuid PRIMARY KEY, expires_ms bigint NOT NULL, value bytea);
CREATE INDEX result_expiry ON result(expires_ms);

-- Who waits for work or for the end of a job, each with one row, and whose end. Unlogged: a crash ends every connection, and so
-- every wait; and a commit that writes nothing else waits for no disk.
CREATE UNLOGGED TABLE waiter(channel text PRIMARY KEY, queues text[] NOT NULL, armed boolean NOT NULL);
-- Who does nothing but wait, and may be handed a message: of which queues, null while of none; and what
-- it was handed and is not told of yet, by which process of the server. Not in `waiter`: who hands over
-- holds the row until its commit, and no ring may pass over it meanwhile. Its pages are filled: each publish
-- scans it, and where room is kept in a page, each scan tries to clear that of the dead, which costs more
-- than to pass over them.
CREATE UNLOGGED TABLE idle(channel text PRIMARY KEY, queues text[], id uuid, seq bigint, by integer);
CREATE UNLOGGED TABLE awaited(channel text, id uuid, PRIMARY KEY(channel, id));
CREATE INDEX awaited_by_id ON awaited(id);

-- Rows die as fast as jobs are done. The default, a fifth of the table, lets a backlog of millions hide
-- millions of dead rows; these limits are counts, and the cost limit lets vacuum keep up.
DO $$
DECLARE name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['message', 'ready', 'scheduled', 'lease', 'attempt', 'result'] LOOP
    EXECUTE format('ALTER TABLE %I SET (autovacuum_vacuum_scale_factor = 0,'
      ' autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_insert_scale_factor = 0.2,'
      ' autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_cost_limit = 5000,'
      ' autovacuum_analyze_scale_factor = 0.2)', name);
  END LOOP;
END $$;
