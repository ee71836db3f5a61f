-- The whole store, and the moves that several verbs make. Put before every script, after now.lua.
--
-- KEYS[1] is the namespace, such as `dibs:`; every key begins with it. A state is a sorted set, and
-- a message's own entry lies still while its id is moved about:
--
--   messages       hash   id -> the head (place, since when it waited first, visibility timeout,
--                         queue) and then the bytes that were sent
--   states         hash   id -> what it has been through (see below); nothing before it came back
--   attempts       hash   id -> how its last leases ended, a list
--   keys, keyed    hash   unique key -> id of the live message that has it, and id -> unique key
--   ready:Q        zset   place -> id
--   scheduled:Q    zset   due time -> number, priority, id
--   held:Q         zset   expiry -> lease: id, place, fence
--   dead:Q, dead   zset   minus the number of its death -> id
--   next           zset   when time alone may change something in a queue -> queue; never too late
--   queues, paused set    of queues
--   counter        string the last number given to a message, or to a death
--   result:ID      string until when it is kept, then the result; the server drops it by itself
--   waiting:Q      zset   since when -> whose bell is to be rung for the queue
--   idle           hash   who has found nothing, and may be handed a message -> its queues
--   handed:W       string the lease that the waiter W was told of, and its queue, until it has heard that,
--                  or the lease runs out
--   awaited        hash   id -> whose bells are to be rung when it ends, one after the other
--   bell:W         channel on which the waiter W is rung: '' to look, '!' to look when it was in `idle`
--                  and is no more, or the moment and the message that is leased to it, instead
--
-- A place is priority and publish order in one number, lowest first, so that what comes back stands
-- where it stood. The members of `held` are the leases: one is current if and only if it is a
-- member. Nothing else says so, and nothing else has its expiry.

local call = redis.call
local now = read_clock()
local ns = KEYS[1]
local MESSAGES, STATES, ATTEMPTS = ns .. 'messages', ns .. 'states', ns .. 'attempts'
local TAKEN, KEYED = ns .. 'keys', ns .. 'keyed'
local NEXT, QUEUES, PAUSED, COUNTER = ns .. 'next', ns .. 'queues', ns .. 'paused', ns .. 'counter'
local DEAD, AWAITED, IDLE = ns .. 'dead', ns .. 'awaited', ns .. 'idle'
-- And what each queue, message or waiter has:
local READY, SCHEDULED, HELD = ns .. 'ready:', ns .. 'scheduled:', ns .. 'held:'
local DEAD_OF, WAITING, HANDED = ns .. 'dead:', ns .. 'waiting:', ns .. 'handed:'
local RESULT, BELL = ns .. 'result:', ns .. 'bell:'

local MOST_SWEPT = 1000 -- moved by time in one script: some 2 ms, for which everybody waits
local PER_PRIORITY = 2 ^ 49
local PLACE = 17 -- where it begins in a lease; an id is the 16 bytes before it

-- The fields of a state. `fence` is the one of the last lease that ended: a current lease's is one
-- more. `overdue`: that lease ran out, and its holder may still settle it until the next claim.
local FENCE, FAILURES, CRASHES, LOST, WAITS_SINCE, OVERDUE, REASON, ERROR = 1, 2, 3, 4, 5, 6, 7, 8

local function state_of(packed)
  return packed and cmsgpack.unpack(packed) or { 0, 0, 0, 0, 0, 0 }
end

local function keep_state(id, state)
  call('HSET', STATES, id, cmsgpack.pack(state))
end

-- What of a message's head is the same for a whole batch: all but its place, which is the first 8.
local function head_of(since, visibility, queue)
  return struct.pack('>I6I5B', since, visibility, #queue) .. queue
end

-- Return the place, since when it waits, the visibility timeout and the queue of a message; nothing
-- of one that is not there.
local function read_head(message)
  if not message then
    return nil
  end
  local place, since, visibility, length = struct.unpack('>I8I6I5B', message)
  return place, since, visibility, string.sub(message, 21, 20 + length)
end

local function place_of(number, priority)
  return (9 - priority) * PER_PRIORITY + number
end

local function when_due(place, id)
  return struct.pack('>I7B', place % PER_PRIORITY, 9 - math.floor(place / PER_PRIORITY)) .. id
end

local function lease_of(id, place, fence)
  return id .. struct.pack('>I8I4', place, fence)
end

-- Return how many hear a bell; nothing where it is forbidden: then all that was done must stand.
local function rung(waiter, what)
  local heard = redis.pcall('PUBLISH', BELL .. waiter, what)
  return type(heard) == 'number' and heard or nil
end

-- Wake whoever has waited longest for a queue, and say whether that ends its wish to be handed a
-- message. Who is not there any more is forgotten.
local function ring(queue)
  while true do
    local waiter = call('ZPOPMIN', WAITING .. queue)[1]
    local heard = waiter and rung(waiter, call('HEXISTS', IDLE, waiter) == 1 and '!' or '')
    if not heard then
      return
    end
    call('HDEL', IDLE, waiter)
    if heard > 0 then
      return
    end
  end
end

-- Note that time alone may change something in a queue, at `at` at the latest.
local function plan(queue, at)
  call('ZADD', NEXT, 'LT', at, queue)
end

local function first_of(key)
  return tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
end

-- Note when time alone changes something in a queue, exactly.
local function plan_anew(queue)
  local due, expiry = first_of(SCHEDULED .. queue), first_of(HELD .. queue)
  if due or expiry then
    call('ZADD', NEXT, math.min(due or expiry, expiry or due), queue)
  else
    call('ZREM', NEXT, queue)
  end
end

local function promote(queue, limit)
  local due = call('ZRANGEBYSCORE', SCHEDULED .. queue, '-inf', now, 'LIMIT', 0, limit)
  local ready = {}
  for _, member in ipairs(due) do
    local number, priority = struct.unpack('>I7B', member)
    ready[#ready + 1] = place_of(number, priority)
    ready[#ready + 1] = string.sub(member, 9)
  end
  if #due > 0 then
    call('ZADD', READY .. queue, unpack(ready))
    call('ZREM', SCHEDULED .. queue, unpack(due))
  end
  return #due
end

local function expire(queue, limit)
  local over = call('ZRANGEBYSCORE', HELD .. queue, '-inf', now, 'LIMIT', 0, limit)
  local ready = {}
  for _, lease in ipairs(over) do
    local id = string.sub(lease, 1, 16)
    local place, fence = struct.unpack('>I8I4', lease, PLACE)
    local state = state_of(call('HGET', STATES, id))
    state[FENCE], state[OVERDUE] = fence, 1
    keep_state(id, state)
    ready[#ready + 1] = place
    ready[#ready + 1] = id
  end
  if #over > 0 then
    call('ZADD', READY .. queue, unpack(ready))
    call('ZREM', HELD .. queue, unpack(over))
  end
  return #over
end

-- Move on what only time moves, in every queue; return whether there is more than fits a script.
local function sweep()
  local left = MOST_SWEPT
  for _, queue in ipairs(call('ZRANGEBYSCORE', NEXT, '-inf', now, 'LIMIT', 0, 100)) do
    left = left - promote(queue, left)
    left = left > 0 and left - expire(queue, left) or left
    plan_anew(queue)
    if left <= 0 then
      return true
    end
  end
  local at = first_of(NEXT)
  return at ~= nil and at <= now
end

-- Let go of the unique keys that these messages have.
local function free_keys(ids)
  for i, key in ipairs(call('HMGET', KEYED, unpack(ids))) do
    if key and call('HGET', TAKEN, key) == ids[i] then
      call('HDEL', TAKEN, key)
    end
  end
end

-- Drop all that is known of messages, but results; their ids are in no sorted set any more.
local function forget(ids)
  call('HDEL', MESSAGES, unpack(ids))
  if call('EXISTS', STATES) == 1 then
    call('HDEL', STATES, unpack(ids))
    call('HDEL', ATTEMPTS, unpack(ids))
  end
  if call('EXISTS', KEYED) == 1 then
    free_keys(ids)
    call('HDEL', KEYED, unpack(ids))
  end
end

-- Take a message whose lease ran out, and which was not granted again, off its queue.
local function revive(queue, id, lease)
  local state = state_of(call('HGET', STATES, id))
  local place, fence = struct.unpack('>I8I4', lease, PLACE)
  if state[OVERDUE] ~= 1 or state[FENCE] ~= fence then
    return false
  end
  if tonumber(call('ZSCORE', READY .. queue, id)) ~= place then
    return false
  end
  call('ZREM', READY .. queue, id)
  state[OVERDUE], state[FENCE] = 0, fence - 1
  keep_state(id, state)
  return true
end

-- Return in how many milliseconds time changes something in any queue, or -1.
local function next_in()
  for _ = 1, 100 do
    local head = call('ZRANGE', NEXT, 0, 0, 'WITHSCORES')
    if not head[1] then
      return -1
    end
    plan_anew(head[1])
    if call('ZSCORE', NEXT, head[1]) == head[2] then
      return math.max(0, head[2] - now)
    end
  end
  return 0
end

