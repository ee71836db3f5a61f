-- Claiming, and the wishes of those who wait.

-- claim: up to `most` messages of the queues `names`, in turn. `floors` says for each queue after which
-- `seq` its fresh messages are looked for; where there is none, all are. A floor is a hint of where the
-- live rows begin: what it leaves out (another publisher committed late) waits until its holder looks
-- without it.
-- `me` is the channel of a caller who can be rung, else null: if it got all that it asked for, it waits
-- no more, and the next who does is to be rung for what is left. The caller does that, after the commit: where
-- the server's queue of notifications is full, a transaction that notifies is refused, and a claim must not be.
-- Answers the leases, and a last row without an id. Its `expiry_ms` is in how many ms something falls due
-- or runs out, null if never, or if there were as many leases as asked for. Its `lost` is 1 if the caller
-- was armed up to here, 0 if it had been rung: that ring may still be on its way. Its
-- `queue` names the queues for which others are to be rung, with commas between them. Its
-- `crashes` is what has become of the caller's wish to be handed something, as `wish` says; `believed` is
-- what that needs. Its `due_ms` is the moment of the clock.
--
-- Its plan is forced. A plan is made before the tables were ever analysed, and kept for as long as the
-- connection lives: so each scan is one range of an index in its order, and the planner is forbidden
-- what else it might think of.
CREATE FUNCTION claim(names text[], floors bigint[], most integer, me text, believed boolean) RETURNS TABLE(
  id uuid, queue text, task text, args bytea, due_ms bigint, priority smallint,
  visibility_timeout_ms bigint, timeout_ms bigint, max_attempts integer, max_crashes integer,
  max_lost integer, unique_key text, headers text, version bigint, fence integer, failures integer,
  crashes integer, lost integer, expiry_ms bigint, seq bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
  now constant bigint := now_ms();
  room integer := most;
  numbers integer[];
  waiting integer[];
  more integer[];
  at integer;
  share integer;
  got integer;
  after bigint;
BEGIN
  IF room > 0 THEN
    PERFORM tidy(now);
    IF NOT believed AND EXISTS (SELECT FROM idle i WHERE i.channel = me AND i.id IS NOT NULL) THEN
      PERFORM wish(me, NULL, false);  -- its publisher is dead, or about to tell: it is granted here
    END IF;
    -- What is paused, or not known yet, has nothing to be granted.
    SELECT array_agg(q.no ORDER BY n.at), array_agg(q.no ORDER BY n.at) FILTER (WHERE NOT q.paused)
    INTO numbers, waiting
    FROM unnest(names) WITH ORDINALITY n(name, at) LEFT JOIN queue q ON q.name = n.name;
  END IF;
  WHILE room > 0 AND cardinality(waiting) > 0 LOOP
    more := '{}';
    FOR turn IN 1 .. cardinality(waiting) LOOP
      at := array_position(numbers, waiting[turn]);
      share := (room + cardinality(waiting) - turn) / (cardinality(waiting) - turn + 1);
      after := floors[at];
      LOOP
        RETURN QUERY
        WITH found AS MATERIALIZED (
          SELECT lanes.place FROM (
            SELECT back.* FROM (
              SELECT r.ctid AS place, r.rank, r.seq FROM ready r
              WHERE r.queue = numbers[at] AND NOT r.fresh
              ORDER BY r.rank, r.seq LIMIT share FOR UPDATE SKIP LOCKED
            ) back
            UNION ALL
            SELECT new.* FROM (
              SELECT r.ctid AS place, r.rank, r.seq FROM ready r
              WHERE r.queue = numbers[at] AND r.fresh AND r.rank = 9 AND r.seq > after
              ORDER BY r.seq LIMIT share FOR UPDATE SKIP LOCKED
            ) new
          ) lanes ORDER BY lanes.rank, lanes.seq LIMIT share
        ), taken AS (
          DELETE FROM ready r USING found f WHERE r.ctid = f.place
          RETURNING r.id, r.rank, r.seq, r.overdue
        ), whole AS MATERIALIZED (
          SELECT m.*, t.rank, t.overdue, now + m.visibility_timeout_ms AS until,
            coalesce(t.overdue, m.fence) + 1 AS next_fence
          FROM taken t JOIN message m ON m.id = t.id
        ), granted AS (
          INSERT INTO lease(id, seq, expiry_ms, fence, queue, rank)
          SELECT w.id, w.seq, w.until, w.next_fence, w.queue, w.rank FROM whole w
        ), counted AS (
          UPDATE message m SET lost = m.lost + 1, fence = t.overdue
          FROM taken t WHERE t.overdue IS NOT NULL AND m.id = t.id
        )
        SELECT w.id, names[at], w.task, w.args, w.due_ms, w.priority, w.visibility_timeout_ms,
          w.timeout_ms, w.max_attempts, w.max_crashes, w.max_lost, w.unique_key, w.headers, w.version,
          w.next_fence, w.failures, w.crashes, w.lost + (w.overdue IS NOT NULL)::integer,
          w.until, w.seq
        FROM whole w ORDER BY w.rank, w.seq;
        GET DIAGNOSTICS got = ROW_COUNT;
        EXIT WHEN got > 0 OR after < 0 OR share = 0;
        after := -1;
      END LOOP;
      room := room - got;
      IF got = share THEN
        more := more || waiting[turn];
      END IF;
    END LOOP;
    waiting := more;
  END LOOP;
  IF room = 0 THEN
    -- Whose row is locked is being rung.
    UPDATE waiter w SET armed = false WHERE w.ctid = ANY(ARRAY(
      SELECT a.ctid FROM waiter a WHERE a.channel = me AND a.armed FOR UPDATE SKIP LOCKED));
    lost := FOUND::integer;
  ELSE
    lost := (SELECT w.armed::integer FROM waiter w WHERE w.channel = me);
    expiry_ms := next_wait(now);
  END IF;
  IF me IS NOT NULL THEN
    crashes := wish(me, CASE WHEN room = most AND room > 0 THEN names END, believed);
    IF room = 0 THEN
      -- Who names none is about to close, and what it gave back may be of any.
      queue := (SELECT string_agg(q.name, ',') FROM queue q
        WHERE (q.name = ANY(names) OR names = '{}') AND NOT q.paused
        AND EXISTS (SELECT FROM waiter w WHERE w.armed AND q.name = ANY(w.queues))
        AND EXISTS (SELECT FROM ready r WHERE r.queue = q.no));
    END IF;
  END IF;
  due_ms := now;
  RETURN NEXT;
END $$;

-- Has `me` be handed something from now on, of `names`; null: nothing any more. Who is handing it something
-- is waited for, but not for long. What was handed over, and not told of, goes back where nothing more is
-- wanted. `believed`: `me` wished before, and has not heard that somebody took that. Answers 1 if its wish
-- stands now, or may, 2 if the one of before was taken: the note is on its way, and there is no new wish; else 0.
CREATE FUNCTION wish(me text, names text[], believed boolean) RETURNS integer
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
  mine record;
BEGIN
  SELECT i.queues, i.id, i.seq INTO mine FROM idle i WHERE i.channel = me FOR UPDATE SKIP LOCKED;
  IF NOT FOUND AND EXISTS (SELECT FROM idle i WHERE i.channel = me) THEN
    IF NOT is_let_go(me) THEN
      RETURN believed::integer;
    END IF;
    SELECT i.queues, i.id, i.seq INTO mine FROM idle i WHERE i.channel = me FOR UPDATE;
  END IF;
  IF names IS NULL AND mine.id IS NOT NULL THEN
    UPDATE idle i SET id = NULL WHERE i.channel = me;
    PERFORM end_otherwise(ARRAY[mine.id], ARRAY[mine.seq], ARRAY[1], ARRAY[0]::bigint[], ARRAY['nothing'],
      ARRAY[NULL]::text[], ARRAY[NULL]::text[], 1);
    RETURN 0;
  END IF;
  IF believed AND mine.queues IS NULL THEN
    RETURN 2;
  END IF;
  IF mine.id IS NULL AND mine.queues IS DISTINCT FROM names THEN
    INSERT INTO idle VALUES (me, names) ON CONFLICT (channel) DO UPDATE SET queues = excluded.queues;
  END IF;
  RETURN (names IS NOT NULL AND mine.id IS NULL)::integer;
END $$;

-- Waits for whoever hands something to `me`, and returns whether he is done. If his machine was cut off between
-- the call and its commit, the server waits for him, and all who wait for his locks would too.
CREATE FUNCTION is_let_go(me text) RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT SET lock_timeout = '200ms'
AS $$
BEGIN
  PERFORM FROM idle i WHERE i.channel = me FOR UPDATE;
  RETURN true;
EXCEPTION WHEN lock_not_available THEN
  RETURN false;
END $$;

-- Moves on what only time moves, in every queue: what fell due, at each claim; once a second, for all
-- workers together, the leases that ran out, the results whose time is over, and the wishes of the dead.
-- The second is enough: no lease is shorter. If more than a page is left, the next claim goes on. Who sweeps
-- holds the row of `upkeep`; where somebody has held it for a second, he was cut off, and each claim sweeps.
CREATE FUNCTION tidy(now bigint) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = on
AS $$
DECLARE
  page constant integer := 5000;
  moved integer;
  pruned integer;
  mine boolean;
BEGIN
  IF EXISTS (SELECT FROM scheduled s WHERE s.due_ms <= now) THEN
    WITH due AS (
      DELETE FROM scheduled WHERE ctid = ANY(ARRAY(
        SELECT s.ctid FROM scheduled s WHERE s.due_ms <= now
        ORDER BY s.due_ms, s.seq LIMIT page FOR UPDATE SKIP LOCKED))
      RETURNING queue, rank, seq, id
    )
    INSERT INTO ready SELECT d.queue, false, d.rank, d.seq, d.id FROM due d;
  END IF;
  PERFORM FROM upkeep u WHERE u.next_ms NOT BETWEEN now + 1 AND now + 1000 FOR UPDATE SKIP LOCKED;
  mine := FOUND;
  IF mine OR EXISTS (SELECT FROM upkeep u WHERE u.next_ms < now - 1000) THEN
    WITH over AS (
      DELETE FROM lease WHERE ctid = ANY(ARRAY(
        SELECT l.ctid FROM lease l WHERE l.expiry_ms <= now LIMIT page FOR UPDATE SKIP LOCKED))
      RETURNING queue, rank, seq, id, fence
    )
    INSERT INTO ready SELECT o.queue, false, o.rank, o.seq, o.id, o.fence FROM over o;
    GET DIAGNOSTICS moved = ROW_COUNT;
    pruned := prune_results(page);
    PERFORM forget(w.channel) FROM (
      SELECT w.channel FROM waiter w WHERE is_dead(w.channel) LIMIT 100 FOR UPDATE SKIP LOCKED) w;
    PERFORM forget(i.channel) FROM (
      SELECT i.channel FROM idle i WHERE is_dead(i.channel) LIMIT 100 FOR UPDATE SKIP LOCKED) i;
    UPDATE upkeep SET next_ms = CASE WHEN page IN (moved, pruned) THEN now ELSE
      least(now + 1000, (SELECT min(l.expiry_ms) FROM lease l WHERE l.expiry_ms > now)) END WHERE mine;
  END IF;
END $$;

-- In how many ms time alone will change something, too early by up to a second at times; null if never.
CREATE FUNCTION next_wait(now bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
  due bigint;
  sweep bigint;
BEGIN
  SELECT s.due_ms INTO due FROM scheduled s ORDER BY s.due_ms LIMIT 1;
  IF due <= now THEN
    -- More than a page fell due, or somebody else holds it: he may never commit, so who looks for it waits as
    -- long again as it has been due, up to a second.
    PERFORM FROM scheduled s WHERE s.due_ms <= now ORDER BY s.due_ms, s.seq LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
      due := least(now + least(now - due, 1000), (SELECT min(s.due_ms) FROM scheduled s WHERE s.due_ms > now));
    END IF;
  END IF;
  IF EXISTS (SELECT FROM lease) THEN
    -- Long ago: somebody else holds the row, and this claim has swept.
    SELECT CASE WHEN u.next_ms < now - 1000 THEN now + 1000 ELSE u.next_ms END INTO sweep FROM upkeep u;
  END IF;
  RETURN CASE WHEN due IS NOT NULL OR sweep IS NOT NULL THEN greatest(1, least(due, sweep) - now) END;
END $$;

-- Drops results whose time is over, `most` at a time; returns how many.
CREATE FUNCTION prune_results(most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
  now constant bigint := now_ms();
  pruned integer;
BEGIN
  DELETE FROM result WHERE ctid = ANY(ARRAY(
    SELECT r.ctid FROM result r WHERE r.expires_ms <= now
    ORDER BY r.expires_ms LIMIT most FOR UPDATE SKIP LOCKED));
  GET DIAGNOSTICS pruned = ROW_COUNT;
  RETURN pruned;
END $$;

-- arm: `me` wants to be rung for `names`. Asked before a claim, in a transaction of its own: what is
-- committed after it rings, and what was before is found. Where its row is locked it is just being rung, and
-- will ask again.
CREATE FUNCTION arm(me text, names text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
BEGIN
  UPDATE waiter w SET queues = names, armed = true WHERE w.ctid = ANY(ARRAY(
    SELECT a.ctid FROM waiter a WHERE a.channel = me FOR UPDATE SKIP LOCKED));
  IF NOT FOUND AND NOT EXISTS (SELECT FROM waiter w WHERE w.channel = me) THEN
    INSERT INTO waiter VALUES (me, names, true) ON CONFLICT DO NOTHING;
  END IF;
END $$;

-- await_ends: `me` wants to be rung at the end of these messages, and of no others. It has a row among the
-- waiters, by which it is forgotten when it is dead; who just forgets one that lives again is waited for.
CREATE FUNCTION await_ends(me text, ids uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
BEGIN
  INSERT INTO waiter AS w VALUES (me, '{}', false) ON CONFLICT (channel) DO UPDATE SET armed = w.armed;
  DELETE FROM awaited a WHERE a.channel = me AND a.id <> ALL(ids);
  INSERT INTO awaited SELECT me, t FROM unnest(ids) t ON CONFLICT DO NOTHING;
END $$;

-- forget: `me` waits no more. What somebody is handing it stays to be seen by the next sweep, and so does its
-- row among the waiters if somebody holds that: a sweep is a part of a claim, which must not wait for him. Whoever
-- holds that row may be changing what it awaits.
CREATE FUNCTION forget(me text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
BEGIN
  DELETE FROM waiter w WHERE w.ctid = ANY(ARRAY(
    SELECT v.ctid FROM waiter v WHERE v.channel = me FOR UPDATE SKIP LOCKED));
  PERFORM wish(me, NULL, false);
  DELETE FROM idle i WHERE i.ctid = ANY(ARRAY(
    SELECT j.ctid FROM idle j WHERE j.channel = me AND j.id IS NULL FOR UPDATE SKIP LOCKED));
  IF NOT EXISTS (SELECT FROM waiter w WHERE w.channel = me) THEN
    DELETE FROM awaited a WHERE a.channel = me;
  END IF;
END $$;
