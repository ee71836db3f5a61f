-- Ending and renewing leases. Each names message, place and fence: `Stale` if the message has another
-- fence by now, `Gone` if it is not there. Whoever holds the row that says where a message is (ready,
-- scheduled, lease, dead) may change the message, and batches come in the order of their ids: so no two
-- transactions wait for each other in a circle.

-- acknowledge: many leases at once. `keeps` and `worth` are the results that are kept, and for how many
-- ms; null where none is. `records` are the ids under which they are kept too, and `spans` for how many
-- ms that is. Answers a row for each that was not ended in time: its place in the arrays, and
-- 'late', 'stale' or 'gone'.
CREATE FUNCTION acknowledge(ids uuid[], seqs bigint[], fences integer[], keeps bigint[], worth bytea[],
  records uuid[], spans bigint[])
RETURNS TABLE(place bigint, answer text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
  now constant bigint := now_ms();
  in_time bigint[];
  each record;
BEGIN
  WITH ended AS (
    DELETE FROM lease l
    USING unnest(ids, seqs, fences, keeps, worth, records, spans)
    WITH ORDINALITY t(id, seq, fence, keep, value, record, span, at)
    WHERE l.id = t.id AND l.seq = t.seq AND l.fence = t.fence AND l.expiry_ms > now
    RETURNING t.at, l.id, t.keep, t.value, t.record, t.span
  ), gone AS (
    DELETE FROM message m USING ended e WHERE m.id = e.id RETURNING m.id, m.fence
  ), forgotten AS (
    -- No lease ended before the first: most messages are spared the look.
    DELETE FROM attempt a USING gone g WHERE g.fence > 0 AND a.id = g.id
  ), kept AS (
    INSERT INTO result AS r SELECT e.id, now + e.keep, e.value FROM ended e WHERE e.keep > 0
    ON CONFLICT (id) DO UPDATE SET expires_ms = excluded.expires_ms, value = excluded.value
  ), recorded AS (
    -- Once each: a row can be written but once in a statement. In order, so that nobody is deadlocked.
    INSERT INTO result AS r SELECT DISTINCT ON (e.record) e.record, now + e.span, e.value
    FROM ended e WHERE e.span > 0 ORDER BY e.record, e.at DESC
    ON CONFLICT (id) DO UPDATE SET expires_ms = excluded.expires_ms, value = excluded.value
  )
  SELECT array_agg(e.at) INTO in_time FROM ended e;
  IF coalesce(cardinality(in_time), 0) < cardinality(ids) THEN
    FOR each IN
      SELECT * FROM unnest(ids, seqs, fences, keeps, worth, records, spans)
      WITH ORDINALITY t(id, seq, fence, keep, value, record, span, at)
      WHERE in_time IS NULL OR t.at <> ALL(in_time)
    LOOP
      place := each.at;
      answer := take(each.id, each.seq, each.fence, now);
      IF answer IN ('applied', 'late') THEN
        DELETE FROM attempt a WHERE a.id = each.id;
        DELETE FROM message m WHERE m.id = each.id;
        INSERT INTO result SELECT each.id, now + each.keep, each.value WHERE each.keep > 0
        UNION ALL SELECT each.record, now + each.span, each.value WHERE each.span > 0
        ON CONFLICT (id) DO UPDATE SET expires_ms = excluded.expires_ms, value = excluded.value;
      END IF;
      RETURN NEXT;
    END LOOP;
  END IF;
END $$;

-- take: ends a lease, be it over its time or not; the message is nowhere then, and its caller moves it.
-- Answers 'applied', 'late', 'stale' or 'gone'.
CREATE FUNCTION take(of uuid, at bigint, held integer, now bigint) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
  expiry bigint;
BEGIN
  DELETE FROM lease l WHERE l.id = of AND l.seq = at AND l.fence = held RETURNING l.expiry_ms INTO expiry;
  IF FOUND THEN
    RETURN CASE WHEN expiry > now THEN 'applied' ELSE 'late' END;
  END IF;
  DELETE FROM ready r USING message m WHERE m.id = of AND m.seq = at AND r.queue = m.queue AND NOT r.fresh
  AND r.rank = 9 - m.priority AND r.seq = at AND r.overdue = held;
  IF FOUND THEN
    RETURN 'late';
  END IF;
  IF EXISTS (SELECT FROM message m WHERE m.id = of AND m.seq = at
    AND NOT EXISTS (SELECT FROM dead d WHERE d.id = of)) THEN
    RETURN 'stale';
  END IF;
  RETURN 'gone';
END $$;

-- end_otherwise: every other end of leases, many at once. A dead letter has a reason; what is given back
-- has no error. `keep` is how many attempts of a message are kept. Answers as `acknowledge` does.
CREATE FUNCTION end_otherwise(ids uuid[], seqs bigint[], fences integer[], delays bigint[],
  charges text[], errors text[], reasons text[], keep integer)
RETURNS TABLE(place bigint, answer text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
  now constant bigint := now_ms();
  in_time bigint[];
  each record;
BEGIN
  WITH ended AS (
    DELETE FROM lease l
    USING unnest(ids, seqs, fences, delays, charges, errors, reasons)
      WITH ORDINALITY t(id, seq, fence, delay, charge, error, reason, at)
    WHERE l.id = t.id AND l.seq = t.seq AND l.fence = t.fence AND l.expiry_ms > now
    RETURNING t.*, l.queue, l.rank
  ), died AS (
    INSERT INTO dead(id, died_ms, queue, reason, error, unique_key)
    SELECT e.id, now, e.queue, e.reason, e.error, m.unique_key FROM ended e JOIN message m ON m.id = e.id
    WHERE e.reason IS NOT NULL
  ), soon AS (
    INSERT INTO ready SELECT e.queue, false, e.rank, e.seq, e.id FROM ended e
    WHERE e.reason IS NULL AND e.delay <= 0
  ), later AS (
    INSERT INTO scheduled SELECT now + e.delay, e.seq, e.id, e.queue, e.rank FROM ended e
    WHERE e.reason IS NULL AND e.delay > 0
  ), counted AS (
    UPDATE message m SET fence = e.fence, since_ms = now + e.delay,
      failures = m.failures + (e.charge = 'failure')::integer,
      crashes = m.crashes + (e.charge = 'crash')::integer,
      unique_key = CASE WHEN e.reason IS NULL THEN m.unique_key END
    FROM ended e WHERE m.id = e.id
  ), noted AS (
    INSERT INTO attempt SELECT e.id, e.fence, now, e.charge, e.error FROM ended e
    WHERE e.error IS NOT NULL
  )
  SELECT array_agg(e.at) INTO in_time FROM ended e;
  -- A message has no more attempts than it had leases, so most are spared the look.
  DELETE FROM attempt a USING unnest(ids, fences) t(id, fence)
  WHERE t.fence > keep AND a.id = t.id AND a.fence <= (
    SELECT k.fence FROM attempt k WHERE k.id = t.id ORDER BY k.fence DESC LIMIT 1 OFFSET keep);
  IF coalesce(cardinality(in_time), 0) < cardinality(ids) THEN
    FOR each IN
      SELECT * FROM unnest(ids, seqs, fences, delays, charges, errors, reasons)
      WITH ORDINALITY t(id, seq, fence, delay, charge, error, reason, at)
      WHERE in_time IS NULL OR t.at <> ALL(in_time)
    LOOP
      place := each.at;
      answer := take(each.id, each.seq, each.fence, now);
      IF answer IN ('applied', 'late') THEN
        -- It is nobody's now: leased again for this transaction, it ends as the others did.
        INSERT INTO lease SELECT m.id, m.seq, now + 60000, each.fence, m.queue, 9 - m.priority
        FROM message m WHERE m.id = each.id;
        PERFORM end_otherwise(ARRAY[each.id], ARRAY[each.seq], ARRAY[each.fence], ARRAY[each.delay],
          ARRAY[each.charge], ARRAY[each.error], ARRAY[each.reason], keep);
      END IF;
      RETURN NEXT;
    END LOOP;
  END IF;
END $$;

-- extend: renews leases by `leases` ms, also those that ran out and were not granted again. Answers a row
-- for each that is held: its place in the arrays, and for how many ms it is; null if another transaction holds
-- its row, so that nobody knows. That one is waited for a moment, and all of them together for a fifth of a
-- second: it may have been cut off, and all the others would run out.
CREATE FUNCTION extend(ids uuid[], seqs bigint[], fences integer[], leases bigint[])
RETURNS TABLE(place bigint, held bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
  now constant bigint := now_ms();
  patience constant timestamptz := clock_timestamp() + interval '200 ms';
  renewed bigint[];
  left_ms bigint[];
  each record;
BEGIN
  WITH free AS MATERIALIZED (
    SELECT t.* FROM unnest(ids, seqs, fences, leases) WITH ORDINALITY t(id, seq, fence, lease, at)
    JOIN lease l ON l.id = t.id AND l.seq = t.seq AND l.fence = t.fence FOR NO KEY UPDATE OF l SKIP LOCKED
  ), done AS (
    UPDATE lease l SET expiry_ms = greatest(l.expiry_ms, now + f.lease) FROM free f WHERE l.id = f.id
    RETURNING f.at, l.expiry_ms - now AS left_ms
  )
  SELECT array_agg(d.at), array_agg(d.left_ms) INTO renewed, left_ms FROM done d;
  RETURN QUERY SELECT * FROM unnest(renewed, left_ms);
  IF coalesce(cardinality(renewed), 0) < cardinality(ids) THEN
    FOR each IN
      SELECT * FROM unnest(ids, seqs, fences, leases) WITH ORDINALITY t(id, seq, fence, lease, at)
      WHERE renewed IS NULL OR t.at <> ALL(renewed)
    LOOP
      held := renew(each.id, each.seq, each.fence, each.lease, now, clock_timestamp() < patience);
      IF held IS DISTINCT FROM 0 THEN
        place := each.at;
        RETURN NEXT;
      END IF;
    END LOOP;
  END IF;
END $$;

-- Renews a lease that ran out. Answers for how many ms, 0 if it is over, null if another transaction holds its
-- row for more than a moment; where nobody `waits`, at all.
CREATE FUNCTION renew(of uuid, at bigint, held integer, lasts bigint, now bigint, waits boolean) RETURNS bigint
LANGUAGE plpgsql SET search_path FROM CURRENT SET lock_timeout = '10ms'
AS $$
BEGIN
  IF NOT waits THEN
    PERFORM FROM lease l WHERE l.id = of AND l.seq = at AND l.fence = held FOR UPDATE NOWAIT;
    PERFORM FROM message m JOIN ready r ON r.queue = m.queue AND NOT r.fresh AND r.rank = 9 - m.priority
      AND r.seq = at AND r.overdue = held WHERE m.id = of AND m.seq = at FOR UPDATE OF r NOWAIT;
  END IF;
  -- 'applied': another call renewed it since it was looked for.
  IF take(of, at, held, now) NOT IN ('applied', 'late') THEN
    RETURN 0;
  END IF;
  INSERT INTO lease SELECT m.id, m.seq, now + lasts, held, m.queue, 9 - m.priority
  FROM message m WHERE m.id = of;
  RETURN lasts;
EXCEPTION WHEN lock_not_available THEN
  RETURN NULL;
END $$;

-- results: of those ids whose message has ended, its place among them, its value, the reason, error and
-- attempts of a dead letter, and whether anything is kept.
CREATE FUNCTION results(ids uuid[])
RETURNS TABLE(place bigint, value bytea, reason text, error text, attempts text, kept boolean)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET jit = off SET enable_seqscan = off
AS $$
DECLARE
  now constant bigint := now_ms();
BEGIN
  RETURN QUERY
  SELECT t.at, r.value, d.reason, d.error,
    CASE WHEN d.id IS NOT NULL THEN attempts_of(t.id) END, m.id IS NOT NULL OR r.id IS NOT NULL
  FROM unnest(ids) WITH ORDINALITY t(id, at)
  LEFT JOIN message m ON m.id = t.id
  LEFT JOIN dead d ON d.id = t.id
  LEFT JOIN result r ON m.id IS NULL AND r.id = t.id AND r.expires_ms > now
  WHERE m.id IS NULL OR d.id IS NOT NULL;
END $$;

-- The attempts of a message as JSON, oldest first. An error is JSON as text, for it may hold what jsonb
-- refuses.
CREATE FUNCTION attempts_of(of uuid) RETURNS text LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
  SELECT '[' || coalesce(string_agg(
    format('[%s,%s,"%s",%s]', a.fence, a.at_ms, a.charge, a.error), ',' ORDER BY a.fence), '') || ']'
  FROM attempt a WHERE a.id = of
$$;
