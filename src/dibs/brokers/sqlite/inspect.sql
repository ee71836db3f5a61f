-- What people look at. A lease that has run out counts as ready, and so does what has fallen due:
-- whether a claim has met it yet is nobody's business. Only the narrow tables are walked: a million
-- ready messages are counted in some 10 ms. Who has waited longest is looked for among the first
-- 100 of each priority, which is exact but where older ones were given back after a delay.

-- :: counts
WITH
waiting AS (SELECT queue, count(*) AS n FROM ready GROUP BY queue),
later AS (
  SELECT queue, sum(due_ms <= :wall) AS due, sum(due_ms > :wall) AS n,
    min(CASE WHEN due_ms <= :wall THEN due_ms END) AS since_ms
  FROM scheduled GROUP BY queue
),
held AS (
  SELECT l.queue, sum(expiry_ms <= :boot) AS expired, sum(expiry_ms > :boot) AS n,
    min(CASE WHEN expiry_ms <= :boot THEN (
      SELECT m.since_ms FROM message m WHERE m.seq = l.seq
    ) END) AS since_ms
  FROM lease l GROUP BY l.queue
),
given_up AS (SELECT queue, count(*) AS n FROM dead GROUP BY queue),
ranks(rank) AS (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)),
oldest AS (
  SELECT q.no AS queue, min((
    SELECT min(m.since_ms) FROM (
      SELECT seq FROM ready r WHERE r.queue = q.no AND r.rank = ranks.rank ORDER BY seq LIMIT 100
    ) AS first CROSS JOIN message m ON m.seq = first.seq
  )) AS since_ms
  FROM queue q CROSS JOIN ranks GROUP BY q.no
)
SELECT q.name,
  coalesce(waiting.n, 0) + coalesce(later.due, 0) + coalesce(held.expired, 0),
  coalesce(later.n, 0),
  coalesce(held.n, 0),
  coalesce(given_up.n, 0),
  (:wall - min(
    coalesce(oldest.since_ms, later.since_ms, held.since_ms),
    coalesce(later.since_ms, held.since_ms, oldest.since_ms),
    coalesce(held.since_ms, oldest.since_ms, later.since_ms)
  )) / 1000.0,
  q.no IN (SELECT queue FROM paused)
FROM queue q
LEFT JOIN waiting ON waiting.queue = q.no
LEFT JOIN later ON later.queue = q.no
LEFT JOIN held ON held.queue = q.no
LEFT JOIN given_up ON given_up.queue = q.no
LEFT JOIN oldest ON oldest.queue = q.no
ORDER BY q.name

-- :: queue_range
SELECT no, no FROM queue WHERE name = ?1 UNION ALL SELECT 0, 9223372036854775807 WHERE ?1 IS NULL

-- A page of a listing: its places first, which are narrow, then what is to be seen of each. A place is
-- three numbers, in whose order the page is, so that the next one begins after its last; a plus keeps a page from being found in another way, which
-- would read all that is before it, or sort all there is.

-- :: ready_jobs
SELECT seen.*, p.* FROM (
  SELECT queue AS a, rank AS b, seq AS c FROM ready
  WHERE (queue, rank, seq) > (:a, :b, :c) AND queue <= :last
  UNION ALL
  SELECT queue, rank, seq FROM scheduled
  WHERE due_ms <= :wall AND queue BETWEEN :first AND :last AND (queue, rank, seq) > (:a, :b, :c)
  UNION ALL
  SELECT m.queue, 9 - m.priority, m.seq FROM lease l CROSS JOIN message m ON m.seq = l.seq
  WHERE l.expiry_ms <= :boot AND m.queue BETWEEN :first AND :last
    AND (m.queue, 9 - m.priority, m.seq) > (:a, :b, :c)
  ORDER BY a, b, c LIMIT :limit
) AS p CROSS JOIN seen WHERE seen.seq = p.c ORDER BY a, b, c

-- :: scheduled_jobs
SELECT seen.*, p.* FROM (
  SELECT due_ms AS a, seq AS b, 0 AS c FROM scheduled
  WHERE (due_ms, seq) > (:a, :b) AND +due_ms > :wall AND queue BETWEEN :first AND :last
  ORDER BY due_ms, seq LIMIT :limit
) AS p CROSS JOIN seen WHERE seen.seq = p.b ORDER BY a, b

-- :: leased_jobs
SELECT seen.*, p.* FROM (
  SELECT seq AS a, 0 AS b, 0 AS c FROM lease
  WHERE seq > :a AND expiry_ms > :boot AND queue BETWEEN :first AND :last
  ORDER BY seq LIMIT :limit
) AS p CROSS JOIN seen WHERE seen.seq = p.a ORDER BY a

-- :: dead_jobs
SELECT seen.*, p.* FROM (
  SELECT -no AS a, seq AS b, 0 AS c FROM dead
  WHERE no < -:a AND +queue BETWEEN :first AND :last
  ORDER BY no DESC LIMIT :limit
) AS p CROSS JOIN seen WHERE seen.seq = p.b ORDER BY a

-- :: job
SELECT * FROM seen WHERE id = ?
