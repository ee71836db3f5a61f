#!lua flags=allow-oom
-- Count what lies in queues.
--
-- ARGV: the queues.
-- Returns for each: how many are ready, scheduled, held, and dead; since when, in milliseconds from
--   now, the one that has waited longest is ready, or -1; and 1 if it is paused, else 0. That one is
--   looked for among the first 10 of each priority: exact but where others were given back.

local function waits_since(id)
  local since = state_of(call('HGET', STATES, id))[WAITS_SINCE]
  if since == 0 then
    local _, published = read_head(call('HGET', MESSAGES, id))
    since = published
  end
  return since or now
end

local function oldest(queue)
  local since
  for priority = 0, 9 do
    local from, to = place_of(0, priority), place_of(PER_PRIORITY - 1, priority)
    for _, id in ipairs(call('ZRANGEBYSCORE', READY .. queue, from, to, 'LIMIT', 0, 10)) do
      since = math.min(since or now, waits_since(id))
    end
  end
  return since and now - since or -1
end

local counts = {}
for _, queue in ipairs(ARGV) do
  counts[#counts + 1] = {
    call('ZCARD', READY .. queue),
    call('ZCARD', SCHEDULED .. queue),
    call('ZCARD', HELD .. queue),
    call('ZCARD', DEAD_OF .. queue),
    oldest(queue),
    call('SISMEMBER', PAUSED, queue),
  }
end
return counts
