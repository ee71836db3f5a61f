-- Storing messages, and ringing for them.

-- publish: one array for each column, one element for each message; `places` gives their order, because
-- what has unique keys is stored in the order of its keys, so that two publishers never wait for each
-- other in a circle. Ids and keys are unique within one call. Answers a row for each message that was
-- not stored: its place, and the id of the live message that has its id or key; none where that one
-- ended in between, and the caller asks again. `alone`: it is one message, which may be handed over; the
-- caller calls `tell` after the commit.
CREATE FUNCTION publish(
  places integer[], ids uuid[], names text[], queue_of integer[], tasks text[], arguments bytea[],
  dues bigint[], priorities smallint[], leases bigint[], timeouts bigint[], attempts integer[],
  crashes integer[], losses integer[], keys text[], headings text[], versions bigint[], alone boolean
) RETURNS TABLE(place integer, holder uuid)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET jit = off SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
  now constant bigint := now_ms();
  base constant bigint := nextval('place');
  numbers integer[];
  stored integer;
  awaited boolean;
BEGIN
  LOOP
    SELECT array_agg(q.no ORDER BY n.at),
      alone AND EXISTS (SELECT FROM idle i WHERE names[1] = ANY(i.queues))
    INTO numbers, awaited
    FROM unnest(names) WITH ORDINALITY n(name, at) LEFT JOIN queue q ON q.name = n.name;
    EXIT WHEN array_position(numbers, NULL) IS NULL;
    PERFORM declare_queues(names);
  END LOOP;
  WITH new AS (
    INSERT INTO message AS m(id, seq, due_ms, visibility_timeout_ms, timeout_ms, version, since_ms,
      queue, max_attempts, max_crashes, max_lost, priority, task, unique_key, headers, args)
    SELECT t.id, base + t.place, t.due, t.lease, t.timeout, t.version, greatest(now, t.due),
      numbers[t.queue], t.attempts, t.crashes, t.losses, t.priority, t.task, t.key, t.headers, t.args
    FROM unnest(places, ids, queue_of, tasks, arguments, dues, priorities, leases, timeouts, attempts,
      crashes, losses, keys, headings, versions)
      t(place, id, queue, task, args, due, priority, lease, timeout, attempts,
      crashes, losses, key, headers, version)
    ON CONFLICT DO NOTHING
    RETURNING m.id, m.seq, m.queue, m.priority, m.due_ms
  ), later AS (
    INSERT INTO scheduled SELECT n.due_ms, n.seq, n.id, n.queue, 9 - n.priority FROM new n
    WHERE n.due_ms > now
  ), soon AS (
    INSERT INTO ready SELECT n.queue, n.priority = 0, 9 - n.priority, n.seq, n.id FROM new n
    WHERE n.due_ms <= now AND NOT awaited
  )
  SELECT count(*) INTO stored FROM new;
  IF stored < cardinality(ids) THEN
    RETURN QUERY SELECT t.place, coalesce(
      (SELECT m.id FROM message m WHERE m.id = t.id),
      (SELECT m.id FROM message m WHERE m.unique_key = t.key)
    ) FROM unnest(places, ids, keys) t(place, id, key)
    WHERE NOT EXISTS (SELECT FROM message m WHERE m.id = t.id AND m.seq = base + t.place);
  ELSIF awaited AND dues[1] <= now THEN
    PERFORM hand_over(ids[1], names[1], numbers[1], now);
  END IF;
END $$;

-- Leases a new message to one who does nothing but wait for it; if there is none, or it is not its turn, it
-- is ready. Whose row is locked is held until the commit only: nothing after this waits for anybody.
CREATE FUNCTION hand_over(of uuid, name text, at integer, now bigint) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
  chosen text;
BEGIN
  IF NOT EXISTS (SELECT FROM queue q WHERE q.no = at AND q.paused)
    AND NOT EXISTS (SELECT FROM ready r WHERE r.queue = at)
    AND NOT EXISTS (SELECT FROM scheduled s WHERE s.due_ms <= now) THEN
    LOOP
      SELECT i.channel INTO chosen FROM idle i WHERE name = ANY(i.queues) LIMIT 1 FOR UPDATE SKIP LOCKED;
      EXIT WHEN NOT FOUND OR NOT is_dead(chosen);
      DELETE FROM idle i WHERE i.channel = chosen;
    END LOOP;
  END IF;
  IF chosen IS NULL THEN
    INSERT INTO ready SELECT at, m.priority = 0, 9 - m.priority, m.seq, of FROM message m WHERE m.id = of;
  ELSE
    WITH held AS (
      INSERT INTO lease SELECT of, m.seq, now + m.visibility_timeout_ms, 1, at, 9 - m.priority
      FROM message m WHERE m.id = of RETURNING lease.seq
    )
    UPDATE idle i SET queues = NULL, id = of, seq = held.seq, by = pg_backend_pid()
    FROM held WHERE i.channel = chosen;
  END IF;
END $$;

-- tell: tells who was handed a message of it, by `note`, which says the message; before that stand its
-- place, and when its lease runs out. If nobody was, it rings for its queue. Called after the commit, on its
-- connection: who published the same id meanwhile, and was told so, may mean another message by it.
CREATE FUNCTION tell(of uuid, name text, note text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
  told record;
  held record;
BEGIN
  UPDATE idle i SET id = NULL WHERE i.id = of AND i.by = pg_backend_pid()
  RETURNING i.channel, i.seq INTO told;
  IF FOUND THEN
    SELECT l.expiry_ms INTO held FROM lease l WHERE l.id = of AND l.seq = told.seq AND l.fence = 1;
  END IF;
  IF FOUND THEN
    PERFORM pg_notify(told.channel, format('%s %s %s', told.seq, held.expiry_ms, note));
  ELSE
    PERFORM ring_one(name);
  END IF;
END $$;

-- Makes queues known; those that are cost a look.
CREATE FUNCTION declare_queues(names text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
BEGIN
  IF EXISTS (SELECT FROM unnest(names) n WHERE NOT EXISTS (SELECT FROM queue q WHERE q.name = n)) THEN
    INSERT INTO queue(name) SELECT n FROM unnest(names) n ORDER BY n ON CONFLICT DO NOTHING;
  END IF;
END $$;

-- Rings one waiter for each of `names`, and all who await the end of one of `ended`. Called after the
-- commit of what it tells of: a waiter first says that it waits and then looks, so either it sees what
-- was committed, or it is seen here. Nothing is notified where nobody waits: a NOTIFY takes a lock of
-- the whole cluster at its commit.
CREATE FUNCTION ring(names text[], ended uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY names LOOP
    PERFORM ring_one(name);
  END LOOP;
  IF ended IS NOT NULL AND EXISTS (SELECT FROM awaited) THEN
    PERFORM pg_notify(a.channel, 'end') FROM (SELECT DISTINCT a.channel FROM awaited a
      WHERE a.id = ANY(ended)) a;
  END IF;
END $$;

-- Whether nobody listens at a channel any more: who does holds an advisory lock for as long as it lives.
-- One asks at a time (the lock with the seed 1): whoever meets another who asks would take him for the one who
-- listens. Who cannot ask in time answers no. Both locks are given back at once, for the transaction may be a
-- caller's: by the error with which the block ends, as by any other that ends it (a cancellation, too).
CREATE FUNCTION is_dead(channel text) RETURNS boolean LANGUAGE plpgsql VOLATILE SET lock_timeout = '200ms'
AS $$
DECLARE
  mine boolean := false;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended(channel, 1));
  mine := pg_try_advisory_xact_lock(hashtextextended(channel, 0));
  RAISE lock_not_available;
EXCEPTION WHEN lock_not_available THEN
  RETURN mine;
END $$;

-- Rings one armed waiter for a queue; returns whether there was one. A ring would be lost on the dead.
CREATE FUNCTION ring_one(name text) RETURNS boolean LANGUAGE plpgsql
AS $$
DECLARE
  found_channel text;
BEGIN
  LOOP
    SELECT w.channel INTO found_channel FROM waiter w WHERE w.armed AND name = ANY(w.queues)
    LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
      RETURN false;
    END IF;
    IF is_dead(found_channel) THEN
      PERFORM forget(found_channel);
    ELSE
      UPDATE waiter w SET armed = false WHERE w.channel = found_channel;
      PERFORM pg_notify(found_channel, 'work');
      RETURN true;
    END IF;
  END LOOP;
END $$;

-- publish_here: one message, in the transaction of whoever calls it, and only in the store that is meant.
-- Answers the id of the live message that has this id or key; null if this one was stored.
-- Whoever waits is rung when that transaction commits. A worker that begins to wait before that is not
-- seen from here: where none waits, all who are there are told. No waiter's row is locked: it would be for
-- as long as the caller likes, and each claim of that waiter would end in a time-out.
CREATE FUNCTION publish_here(
  meant text, id text, queue text, task text, arguments text, due bigint, priority integer,
  lease bigint, timeout bigint, attempts integer, crashes integer, losses integer, key text,
  headings text, version bigint
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
  answer record;
  chosen text;
BEGIN
  IF NOT EXISTS (SELECT FROM meta WHERE store = meant::uuid) THEN
    RETURN 'elsewhere';
  END IF;
  SELECT * INTO answer FROM publish(
    ARRAY[0], ARRAY[id::uuid], ARRAY[queue], ARRAY[1], ARRAY[task], ARRAY[decode(arguments, 'hex')],
    ARRAY[due], ARRAY[priority::smallint], ARRAY[lease], ARRAY[timeout], ARRAY[attempts],
    ARRAY[crashes], ARRAY[losses], ARRAY[key], ARRAY[headings], ARRAY[version], false);
  IF FOUND THEN
    RETURN coalesce(answer.holder::text, 'ended');
  END IF;
  -- At random: callers who commit at the same moment shall not all ring the same one.
  SELECT w.channel INTO chosen FROM waiter w
  WHERE w.armed AND queue = ANY(w.queues) AND NOT is_dead(w.channel) ORDER BY random() LIMIT 1;
  PERFORM pg_notify(w.channel, 'work') FROM waiter w
  WHERE w.channel = chosen OR (chosen IS NULL AND queue = ANY(w.queues));
  RETURN 'stored';
END $$;
