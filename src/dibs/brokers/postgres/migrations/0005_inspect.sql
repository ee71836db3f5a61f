-- What people look at, and what they move. A lease that has run out counts as ready, and so does what has
-- fallen due: whether a claim has met it yet is nobody's business.

-- A message and all that is known of it: `at` says in which table its place is. Read it as you like:
-- SELECT task, at, count(*) FROM dibs.seen GROUP BY 1, 2.
CREATE VIEW seen AS
SELECT m.id, q.name AS queue, m.task, m.args, m.due_ms, m.priority, m.visibility_timeout_ms,
  m.timeout_ms, m.max_attempts, m.max_crashes, m.max_lost,
  coalesce(m.unique_key, d.unique_key) AS unique_key, m.headers, m.version,
  coalesce(l.fence, r.overdue, m.fence) AS fence, m.failures, m.crashes, m.lost,
  m.since_ms AS waiting_ms, d.died_ms, d.reason, d.error,
  l.expiry_ms, s.due_ms AS until_ms, attempts_of(m.id) AS attempts, m.seq,
  CASE WHEN d.id IS NOT NULL THEN 'dead' WHEN l.id IS NOT NULL THEN 'lease'
    WHEN s.id IS NOT NULL THEN 'scheduled' ELSE 'ready' END AS at
FROM message m JOIN queue q ON q.no = m.queue
LEFT JOIN dead d ON d.id = m.id
LEFT JOIN lease l ON l.id = m.id
LEFT JOIN scheduled s ON s.seq = m.seq AND s.due_ms = m.since_ms
LEFT JOIN ready r ON r.queue = m.queue AND NOT r.fresh AND r.rank = 9 - m.priority AND r.seq = m.seq;

-- counts: of every queue, by name, and for how many ms its oldest ready message has waited. Who has waited
-- longest is looked for among the first 100 of each priority, which is exact but where older ones were
-- given back after a delay.
CREATE FUNCTION counts() RETURNS TABLE(name text, ready bigint, scheduled bigint, in_flight bigint,
  dead bigint, oldest_ms bigint, paused boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET jit = off
AS $$
DECLARE
  now constant bigint := now_ms();
BEGIN
  RETURN QUERY
  WITH waiting AS (SELECT r.queue, count(*) AS n FROM ready r GROUP BY r.queue),
  later AS (
    SELECT s.queue, count(*) FILTER (WHERE s.due_ms <= now) AS due,
      count(*) FILTER (WHERE s.due_ms > now) AS n,
      min(s.due_ms) FILTER (WHERE s.due_ms <= now) AS since
    FROM scheduled s GROUP BY s.queue
  ),
  held AS (
    SELECT l.queue, count(*) FILTER (WHERE l.expiry_ms <= now) AS expired,
      count(*) FILTER (WHERE l.expiry_ms > now) AS n,
      min((SELECT m.since_ms FROM message m WHERE m.id = l.id))
        FILTER (WHERE l.expiry_ms <= now) AS since
    FROM lease l GROUP BY l.queue
  ),
  given_up AS (SELECT d.queue, count(*) AS n FROM dead d GROUP BY d.queue),
  oldest AS (
    SELECT q.no AS queue, min((
      SELECT min(m.since_ms) FROM (
        SELECT r.id FROM ready r WHERE r.queue = q.no AND r.fresh = lane.fresh AND r.rank = ranks.rank
        ORDER BY r.seq LIMIT 100
      ) first JOIN message m ON m.id = first.id
    )) AS since
    FROM queue q, generate_series(0, 9) ranks(rank), (VALUES (true), (false)) lane(fresh) GROUP BY q.no
  )
  SELECT q.name, coalesce(w.n, 0) + coalesce(s.due, 0) + coalesce(h.expired, 0), coalesce(s.n, 0),
    coalesce(h.n, 0), coalesce(g.n, 0), now - least(o.since, s.since, h.since), q.paused
  FROM queue q
  LEFT JOIN waiting w ON w.queue = q.no
  LEFT JOIN later s ON s.queue = q.no
  LEFT JOIN held h ON h.queue = q.no
  LEFT JOIN given_up g ON g.queue = q.no
  LEFT JOIN oldest o ON o.queue = q.no
  ORDER BY q.name;
END $$;

-- Pages of a listing, `most` long: its places first, which are narrow, then what is to be seen of each. A
-- place is three numbers, in whose order the page is; the next page begins after the last of this one.
-- The two lanes of `ready` are one: each gives as many as a page has, in its order.

-- list_ready: in the order of claims; the place is queue, rank, seq.
CREATE FUNCTION list_ready(name text, a bigint, b bigint, c bigint, most integer)
RETURNS TABLE(job seen, now bigint, x bigint, y bigint, z bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
BEGIN
  RETURN QUERY
  WITH moment AS MATERIALIZED (SELECT now_ms() AS now),
  chosen AS MATERIALIZED (SELECT q.no FROM queue q WHERE list_ready.name IS NULL OR q.name = list_ready.name),
  places AS (
    SELECT p.* FROM chosen, LATERAL (
      (SELECT r.queue, r.rank, r.seq, r.id FROM ready r WHERE r.queue = no AND r.fresh
        AND (r.queue, r.rank, r.seq) > (a, b, c) ORDER BY r.rank, r.seq LIMIT most)
      UNION ALL
      (SELECT r.queue, r.rank, r.seq, r.id FROM ready r WHERE r.queue = no AND NOT r.fresh
        AND (r.queue, r.rank, r.seq) > (a, b, c) ORDER BY r.rank, r.seq LIMIT most)
      UNION ALL
      (SELECT s.queue, s.rank, s.seq, s.id FROM scheduled s, moment WHERE s.queue = no
        AND s.due_ms <= moment.now AND (s.queue, s.rank, s.seq) > (a, b, c))
      UNION ALL
      (SELECT l.queue, l.rank, l.seq, l.id FROM lease l, moment WHERE l.queue = no
        AND l.expiry_ms <= moment.now AND (l.queue, l.rank, l.seq) > (a, b, c))
    ) p ORDER BY p.queue, p.rank, p.seq LIMIT most
  )
  SELECT seen, moment.now, p.queue::bigint, p.rank::bigint, p.seq
  FROM moment, places p JOIN seen ON seen.id = p.id ORDER BY p.queue, p.rank, p.seq;
END $$;

-- list_scheduled: by due time; the place is due time, seq.
CREATE FUNCTION list_scheduled(name text, a bigint, b bigint, c bigint, most integer)
RETURNS TABLE(job seen, now bigint, x bigint, y bigint, z bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
BEGIN
  RETURN QUERY
  WITH moment AS MATERIALIZED (SELECT now_ms() AS now),
  places AS (
    SELECT s.due_ms, s.seq, s.id FROM scheduled s, moment
    WHERE (s.due_ms, s.seq) > (a, b) AND s.due_ms > moment.now
      AND (name IS NULL OR s.queue = (SELECT q.no FROM queue q WHERE q.name = list_scheduled.name))
    ORDER BY s.due_ms, s.seq LIMIT most
  )
  SELECT seen, moment.now, p.due_ms, p.seq, 0::bigint
  FROM moment, places p JOIN seen ON seen.id = p.id ORDER BY p.due_ms, p.seq;
END $$;

-- list_leased: in publish order; the place is seq.
CREATE FUNCTION list_leased(name text, a bigint, b bigint, c bigint, most integer)
RETURNS TABLE(job seen, now bigint, x bigint, y bigint, z bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
BEGIN
  RETURN QUERY
  WITH moment AS MATERIALIZED (SELECT now_ms() AS now),
  places AS (
    SELECT l.seq, l.id FROM lease l, moment WHERE l.seq > a AND l.expiry_ms > moment.now
      AND (name IS NULL OR l.queue = (SELECT q.no FROM queue q WHERE q.name = list_leased.name))
    ORDER BY l.seq LIMIT most
  )
  SELECT seen, moment.now, p.seq, 0::bigint, 0::bigint
  FROM moment, places p JOIN seen ON seen.id = p.id ORDER BY p.seq;
END $$;

-- list_dead: newest first; the place is minus the number of the dead letter.
CREATE FUNCTION list_dead(name text, a bigint, b bigint, c bigint, most integer)
RETURNS TABLE(job seen, now bigint, x bigint, y bigint, z bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
BEGIN
  RETURN QUERY
  WITH places AS (
    SELECT d.no, d.id FROM dead d WHERE d.no < -a
      AND (name IS NULL OR d.queue = (SELECT q.no FROM queue q WHERE q.name = list_dead.name))
    ORDER BY d.no DESC LIMIT most
  )
  SELECT seen, now_ms(), -p.no, 0::bigint, 0::bigint
  FROM places p JOIN seen ON seen.id = p.id ORDER BY p.no DESC;
END $$;

-- look_up: one message, wherever it is.
CREATE FUNCTION look_up(of uuid) RETURNS TABLE(job seen, now bigint, x bigint, y bigint, z bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
BEGIN
  RETURN QUERY
  SELECT seen, now_ms(), 0::bigint, 0::bigint, 0::bigint FROM seen WHERE seen.id = of;
END $$;

-- redrive: sends dead letters back, in one step. Answers a row for each: its place, 'gone' if it is no dead
-- letter, the id of the live message that has its key, or null if it is ready again; and its queue.
CREATE FUNCTION redrive(ids uuid[]) RETURNS TABLE(place bigint, answer text, queue text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
  now constant bigint := now_ms();
  each record;
BEGIN
  -- Locked in one order first; then moved in the order that was asked for.
  PERFORM FROM dead d WHERE d.id = ANY(ids) ORDER BY d.no FOR UPDATE;
  FOR each IN SELECT * FROM unnest(ids) WITH ORDINALITY t(id, at) LOOP
    place := each.at;
    answer := 'gone';
    queue := NULL;
    SELECT q.name, (SELECT h.id::text FROM message h WHERE h.unique_key = d.unique_key)
    INTO queue, answer FROM dead d JOIN queue q ON q.no = d.queue WHERE d.id = each.id;
    IF NOT FOUND THEN
      answer := 'gone';
    ELSIF answer IS NULL THEN
      UPDATE message m SET unique_key = d.unique_key, failures = 0, crashes = 0, lost = 0, since_ms = now
      FROM dead d WHERE d.id = each.id AND m.id = each.id;
      DELETE FROM dead d WHERE d.id = each.id;
      INSERT INTO ready SELECT m.queue, false, 9 - m.priority, m.seq, m.id FROM message m
      WHERE m.id = each.id;
    END IF;
    RETURN NEXT;
  END LOOP;
END $$;

-- discard: removes dead letters; answers how many there were.
CREATE FUNCTION discard(ids uuid[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off
AS $$
DECLARE
  removed uuid[];
BEGIN
  WITH those AS (SELECT d.id FROM dead d WHERE d.id = ANY(ids) ORDER BY d.no FOR UPDATE)
  SELECT array_agg(t.id) INTO removed FROM those t;
  DELETE FROM dead d WHERE d.id = ANY(removed);
  DELETE FROM attempt a WHERE a.id = ANY(removed);
  DELETE FROM message m WHERE m.id = ANY(removed);
  RETURN coalesce(cardinality(removed), 0);
END $$;

-- last_place: no message that is published from now on has a lower seq.
CREATE FUNCTION last_place() RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$ SELECT nextval('place') $$;

-- purge: removes up to `most` of what waits in a queue, and was published before the place `last`; what a
-- worker takes meanwhile is left to it. Answers how many.
CREATE FUNCTION purge(name text, last bigint, most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
  now constant bigint := now_ms();
  chosen constant integer := (SELECT q.no FROM queue q WHERE q.name = purge.name);
  removed uuid[];
  part uuid[];
BEGIN
  WITH those AS (
    DELETE FROM ready WHERE ctid = ANY(ARRAY(SELECT r.ctid FROM ready r
      WHERE r.queue = chosen AND r.seq < last LIMIT most FOR UPDATE SKIP LOCKED)) RETURNING id
  ) SELECT coalesce(array_agg(t.id), '{}') INTO removed FROM those t;
  WITH those AS (
    DELETE FROM scheduled WHERE ctid = ANY(ARRAY(SELECT s.ctid FROM scheduled s
      WHERE s.queue = chosen AND s.seq < last LIMIT most - cardinality(removed) FOR UPDATE SKIP LOCKED))
    RETURNING id
  ) SELECT array_agg(t.id) INTO part FROM those t;
  removed := removed || part;
  WITH those AS (
    DELETE FROM lease WHERE ctid = ANY(ARRAY(SELECT l.ctid FROM lease l
      WHERE l.queue = chosen AND l.seq < last AND l.expiry_ms <= now
      LIMIT most - cardinality(removed) FOR UPDATE SKIP LOCKED)) RETURNING id
  ) SELECT array_agg(t.id) INTO part FROM those t;
  removed := removed || part;
  DELETE FROM attempt a WHERE a.id = ANY(removed);
  DELETE FROM message m WHERE m.id = ANY(removed);
  RETURN cardinality(removed);
END $$;

-- pause, resume: whether a queue may be claimed from.
CREATE FUNCTION pause(name text, stop boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
BEGIN
  IF stop THEN
    PERFORM declare_queues(ARRAY[pause.name]);
  END IF;
  UPDATE queue q SET paused = stop WHERE q.name = pause.name;
END $$;

-- about: which schema this is, whose store, and how durable what it holds. A server that answers before
-- its log is on the disk may lose what it confirmed when one of its processes dies. Without fsync, or
-- without whole pages in the log, a loss of power can leave pages that nothing mends.
CREATE FUNCTION about() RETURNS TABLE(version integer, store uuid, level text, note text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $$
  SELECT (SELECT max(m.version) FROM migration m), (SELECT m.store FROM meta m),
    CASE WHEN current_setting('synchronous_commit') = 'off' THEN 'D0'
      WHEN 'off' IN (current_setting('fsync'), current_setting('full_page_writes')) THEN 'D1'
      ELSE 'D2' END,
    format('PostgreSQL, synchronous_commit=%s, fsync=%s, full_page_writes=%s',
      current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes'))
$$;

-- findings: what the server is set to, whether that is 'good', worth a 'note' or 'bad', and how to mend it.
CREATE FUNCTION findings() RETURNS TABLE(what text, found text, verdict text, advice text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT
AS $$
  WITH unlogged AS (
    SELECT string_agg(c.relname, ', ' ORDER BY c.relname) AS names FROM pg_class c
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'
      AND c.relpersistence = 'u' AND c.relname NOT IN ('waiter', 'idle', 'awaited')
  )
  SELECT f.what, f.found, CASE WHEN f.good THEN 'good' ELSE f.otherwise END,
    CASE WHEN f.good THEN '' ELSE f.advice END
  FROM unlogged u, LATERAL (VALUES
    ('server_version', current_setting('server_version'),
      current_setting('server_version_num')::integer >= 130000, 'bad',
      'PostgreSQL 13 or later is needed'),
    ('synchronous_commit', current_setting('synchronous_commit'),
      current_setting('synchronous_commit') <> 'off', 'bad',
      'a crash of the server would lose jobs that were confirmed; for the role that dibs connects as:'
      ' ALTER ROLE name SET synchronous_commit = on'),
    ('role of the server', CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END,
      NOT pg_is_in_recovery(), 'bad',
      'nothing can be stored on a standby; name the primary, or all hosts and'
      ' target_session_attrs=read-write'),
    ('default_transaction_read_only', current_setting('default_transaction_read_only'),
      current_setting('default_transaction_read_only') = 'off', 'bad',
      'nothing can be stored; ALTER ROLE name SET default_transaction_read_only = off'),
    ('unlogged tables', coalesce(u.names, 'none'), u.names IS NULL, 'bad',
      'a crash of the server empties them; ALTER TABLE name SET LOGGED for each'),
    ('server_encoding', current_setting('server_encoding'),
      current_setting('server_encoding') = 'UTF8', 'bad',
      'a task''s name is any text; make the database with ENCODING ''UTF8'''),
    ('fsync', current_setting('fsync'), current_setting('fsync') = 'on', 'note',
      'after a loss of power the whole database may be corrupt; set it to on'),
    ('full_page_writes', current_setting('full_page_writes'),
      current_setting('full_page_writes') = 'on', 'note',
      'a page that is torn by a loss of power cannot be mended; set it to on'),
    ('autovacuum', current_setting('autovacuum'), current_setting('autovacuum') = 'on', 'note',
      'finished jobs leave dead rows that nothing clears up; set it to on')
  ) f(what, found, good, otherwise, advice)
$$;

-- Nobody may do anything but who is granted it: docs/postgres.md has the grants of each role.
DO $$
BEGIN
  EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA %I FROM PUBLIC', current_schema());
END $$;
