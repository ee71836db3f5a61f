#!lua flags=allow-oom
-- Count what lies in queues.
--
-- ARGV: the queues.
-- Returns for each: how many are ready, scheduled, held, and dead; since when, in milliseconds from
--   now, the one that has waited longest is ready, or -1; and 1 if it is paused, else 0. That one is
--   looked for among the first 10 of each priority: exact but where others were given back.

local function oldest(queue)
  local since
  for priority = 0, 9 do
    local from, to = place_of(0, priority), place_of(PER_PRIORITY - 1, priority)
    local ids = call('ZRANGEBYSCORE', READY .. queue, from, to, 'LIMIT', 0, 10)
    for _, id in ipairs(ids) do
      local _, waits = nil, state_of(call('HGET', STATES, id))[WAITS_SINCE]
      if waits == 0 then
        _, waits = read_head(call('HGET', MESSAGES, id))
      end
      since = math.min(since or waits, waits)
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
