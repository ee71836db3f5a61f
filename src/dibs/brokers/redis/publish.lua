#!lua
-- Store messages, all that are no duplicates. (No flag: refused as a whole when memory is full.)
--
-- ARGV: runs of messages that are alike, one after the other, each of
--   queue, priority, due time, visibility timeout, unique key or '', how many, and for each of them
--   its id and its bytes.
-- Returns the duplicates: for each its number in the batch, from 0, and the id that is there.

local MOST_HANDED = 65536 -- bytes: what lies with the server for a waiter should not be much
local runs, ids = {}, {}
local at = 1
while ARGV[at] do
  local first, count = at + 6, tonumber(ARGV[at + 5])
  runs[#runs + 1] = { at = at, first = first, count = count }
  for i = first, first + 2 * count - 1, 2 do
    ids[#ids + 1] = ARGV[i]
  end
  at = first + 2 * count
end
local there = call('HMGET', MESSAGES, unpack(ids))
local number = call('INCRBY', COUNTER, #ids) - #ids
local done, duplicates, stored, new = 0, {}, {}, {}

-- Return the id of the message that has this id or key already, or take both.
local function holder_of(id, key)
  if there[done] or stored[id] then
    return id
  end
  if key ~= '' and call('HSETNX', TAKEN, key, id) == 0 then
    return call('HGET', TAKEN, key)
  end
  stored[id] = true
  return nil
end

local queues = {}

-- Whether what is ready from now on is next in its queue, and whoever asks for it would get it.
local function is_next(queue)
  local at = call('ZSCORE', NEXT, queue)
  return (not at or tonumber(at) > now)
    and call('EXISTS', READY .. queue) == 0
    and call('SISMEMBER', PAUSED, queue) == 0
end

-- Return who has waited longest for a queue, if it has found nothing there.
local function idle_one(queue)
  local waiter = call('ZRANGE', WAITING .. queue, 0, 0)[1]
  local asked = waiter and call('HGET', IDLE, waiter)
  return asked and string.find(' ' .. asked .. ' ', ' ' .. queue .. ' ', 1, true) and waiter
end

-- Tell one that has found nothing of its lease, and note that; say whether one is told. It is rung
-- from now on, if it has more room; who is not there any more is forgotten.
local function tell(queue, waiter, message, lease, visibility)
  while waiter do
    local heard = rung(waiter, struct.pack('>I6', now) .. message)
    if not heard then
      return false
    end
    call('HDEL', IDLE, waiter)
    if heard > 0 then
      call('ZADD', WAITING .. queue, 'XX', now, waiter)
      call('SET', HANDED .. waiter, lease .. queue, 'PX', visibility)
      return true
    end
    call('ZREM', WAITING .. queue, waiter)
    waiter = idle_one(queue)
  end
  return false
end

-- Lease the one that is stored to one that has found nothing; say whether it is done. It is leased
-- before that one is told: an error in between would leave a lease, which runs out.
local function hand_over(queue, place, visibility)
  local id, message = new[1], new[2]
  local waiter = #message <= MOST_HANDED and idle_one(queue)
  if not waiter or not is_next(queue) then
    return false
  end
  local lease, expiry = lease_of(id, place, 1), now + visibility
  call('ZADD', HELD .. queue, expiry, lease)
  plan(queue, expiry)
  if tell(queue, waiter, message, lease, visibility) then
    return true
  end
  call('ZREM', HELD .. queue, lease)
  return false
end

local function store(run)
  local queue, key = ARGV[run.at], ARGV[run.at + 4]
  local priority, due = tonumber(ARGV[run.at + 1]), tonumber(ARGV[run.at + 2])
  local head = head_of(math.max(now, due), tonumber(ARGV[run.at + 3]), queue)
  queues[queue] = queues[queue] or { ready = {}, scheduled = {} }
  local moved = queues[queue][due > now and 'scheduled' or 'ready']
  for i = run.first, run.first + 2 * run.count - 1, 2 do
    local id = ARGV[i]
    done = done + 1
    local holder = holder_of(id, key)
    if holder then
      duplicates[#duplicates + 1] = done - 1
      duplicates[#duplicates + 1] = holder
    else
      local place = place_of(number + done, priority)
      new[#new + 1] = id
      new[#new + 1] = struct.pack('>I8', place) .. head .. ARGV[i + 1]
      moved[#moved + 1] = due > now and due or place
      moved[#moved + 1] = due > now and when_due(place, id) or id
      if key ~= '' then
        call('HSET', KEYED, id, key)
      end
    end
  end
end

for _, run in ipairs(runs) do
  store(run)
end
if #new > 0 then
  call('HSET', MESSAGES, unpack(new))
end
for queue, moved in pairs(queues) do
  call('SADD', QUEUES, queue)
  local handed = #ids == 1 and #moved.ready == 2 and hand_over(queue, moved.ready[1], tonumber(ARGV[4]))
  if handed then
    queues[queue] = nil -- nobody is to be rung for it
  elseif #moved.ready > 0 then
    call('ZADD', READY .. queue, unpack(moved.ready))
  end
  if #moved.scheduled > 0 then
    call('ZADD', SCHEDULED .. queue, unpack(moved.scheduled))
    plan_anew(queue)
  end
end
for queue in pairs(queues) do
  ring(queue)
end
return duplicates
