#!lua flags=allow-oom
-- End leases, each if it is current.
--
-- ARGV: runs, one after the other: a kind, the queue, how many, and for each of them its fields:
--   ack   lease
--   keep  lease, for how many milliseconds its result is kept, '=' and the result or ''
--   record  as keep, and another id under which the result is kept, and for how many milliseconds
--   back  lease, delay, charge, error or ''
--   dead  lease, reason, charge, error
-- Returns how each ended: 0 applied, 1 applied late, 2 stale, 3 gone.

local APPLIED, LATE, STALE, GONE = 0, 1, 2, 3
local ATTEMPTS_KEPT = 20
local COUNTERS = { failure = FAILURES, crash = CRASHES }
local answers = {}
local over, returned = {}, {} -- ids and queues to ring for, once all is written

local function answer(how)
  answers[#answers + 1] = how
  return how <= LATE
end

-- Return how the lease ended that has this expiry, if it has one.
local function in_time(expiry)
  return expiry and (tonumber(expiry) > now and APPLIED or LATE)
end

-- Return how a lease ended that is not held: late, or not at all.
local function otherwise(queue, id, lease)
  if revive(queue, id, lease) then
    return LATE
  end
  local message = call('HGET', MESSAGES, id)
  local same = message and string.sub(message, 1, 8) == string.sub(lease, PLACE, 24)
  local is_dead = same and state_of(call('HGET', STATES, id))[REASON]
  return (same and not is_dead) and STALE or GONE
end

-- End leases all at once: they are most of all that ends. Calls `kept` for each that was current.
local function acknowledge(queue, leases, kept)
  local ids, ended = {}, {}
  for i, expiry in ipairs(call('ZMSCORE', HELD .. queue, unpack(leases))) do
    local lease = leases[i]
    local id = string.sub(lease, 1, 16)
    local how = ended[lease] and GONE or in_time(expiry) or otherwise(queue, id, lease)
    if answer(how) then
      ended[lease] = true
      ids[#ids + 1] = id
      over[#over + 1] = id
      kept(i, id)
    end
  end
  call('ZREM', HELD .. queue, unpack(leases))
  if #ids > 0 then
    forget(ids)
  end
end

-- Take one lease off, and note its end: its fence and what it is charged, its error if it has one.
-- Returns the state, to be changed further and kept; nothing if the lease is not current.
local function take(queue, lease, charge, error)
  local id = string.sub(lease, 1, 16)
  local how = in_time(call('ZSCORE', HELD .. queue, lease)) or otherwise(queue, id, lease)
  if not answer(how) then
    return nil
  end
  call('ZREM', HELD .. queue, lease)
  local state = state_of(call('HGET', STATES, id))
  local place, fence = struct.unpack('>I8I4', lease, PLACE)
  local counter = COUNTERS[charge]
  state[FENCE] = fence
  if counter then
    state[counter] = state[counter] + 1
  end
  if error ~= '' then
    local packed = call('HGET', ATTEMPTS, id)
    local attempts = packed and cmsgpack.unpack(packed) or {}
    attempts[#attempts + 1] = { fence, now, charge, error }
    if #attempts > ATTEMPTS_KEPT then
      table.remove(attempts, 1)
    end
    call('HSET', ATTEMPTS, id, cmsgpack.pack(attempts))
  end
  return state, id, place
end

local END = {}

function END.ack(queue, first, count)
  acknowledge(queue, { unpack(ARGV, first, first + count - 1) }, function() end)
  return count
end

local function keep_result(id, ms, result)
  if ms > 0 then
    call('SET', RESULT .. id, struct.pack('>I6', now + ms) .. result, 'PX', ms)
  end
end

function END.keep(queue, first, count)
  local leases = {}
  for i = 0, count - 1 do
    leases[#leases + 1] = ARGV[first + 3 * i]
  end
  acknowledge(queue, leases, function(i, id)
    keep_result(id, tonumber(ARGV[first + 3 * i - 2]), ARGV[first + 3 * i - 1])
  end)
  return 3 * count
end

function END.record(queue, first, count)
  local leases = {}
  for i = 0, count - 1 do
    leases[#leases + 1] = ARGV[first + 5 * i]
  end
  acknowledge(queue, leases, function(i, id)
    local at = first + 5 * (i - 1)
    local result = ARGV[at + 2]
    keep_result(id, tonumber(ARGV[at + 1]), result)
    keep_result(ARGV[at + 3], tonumber(ARGV[at + 4]), result)
  end)
  return 5 * count
end

function END.back(queue, first, count)
  returned[queue] = true
  for at = first, first + 4 * count - 1, 4 do
    local delay = tonumber(ARGV[at + 1])
    local state, id, place = take(queue, ARGV[at], ARGV[at + 2], ARGV[at + 3])
    if state then
      state[WAITS_SINCE] = now + delay
      keep_state(id, state)
      if delay > 0 then
        call('ZADD', SCHEDULED .. queue, now + delay, when_due(place, id))
        plan(queue, now + delay)
      else
        call('ZADD', READY .. queue, place, id)
      end
    end
  end
  return 4 * count
end

function END.dead(queue, first, count)
  for at = first, first + 4 * count - 1, 4 do
    local state, id = take(queue, ARGV[at], ARGV[at + 2], ARGV[at + 3])
    if state then
      state[WAITS_SINCE], state[REASON], state[ERROR] = now, ARGV[at + 1], ARGV[at + 3]
      keep_state(id, state)
      local number = -call('INCR', COUNTER)
      call('ZADD', DEAD, number, id)
      call('ZADD', DEAD_OF .. queue, number, id)
      free_keys({ id })
      over[#over + 1] = id
    end
  end
  return 4 * count
end

-- Wake all who wait for the end of one of these.
local function ring_ends(ids)
  if #ids == 0 or call('EXISTS', AWAITED) == 0 then
    return
  end
  local rung = {}
  for i, waiters in ipairs(call('HMGET', AWAITED, unpack(ids))) do
    if waiters then
      call('HDEL', AWAITED, ids[i])
      for waiter in string.gmatch(waiters, '%S+') do
        rung[waiter] = true
      end
    end
  end
  for waiter in pairs(rung) do
    redis.pcall('PUBLISH', BELL .. waiter, '')
  end
end

local at = 1
while ARGV[at] do
  local first = at + 3
  at = first + END[ARGV[at]](ARGV[at + 1], first, tonumber(ARGV[at + 2]))
end
for queue in pairs(returned) do
  ring(queue)
end
ring_ends(over)
return answers
