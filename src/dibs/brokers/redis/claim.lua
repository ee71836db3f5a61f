#!lua flags=allow-oom
-- Move on what time moves, then grant what is ready, to each queue its share.
--
-- ARGV: 1 to grant although more than fits a script has fallen due, which may come first; the limit;
--   who is to be rung for what comes next, or ''; 1 if that one knows of nobody who has taken its wish
--   to be handed a message, else 0; its name of before, on which it hears nothing any more and heard
--   nothing of its wish, or ''; how many queues it asked to be rung for before and claims from no
--   more, and those; and the queues, in turn.
-- Returns: 1 if something is left over that should be asked for at once, else 0; the moment of the
--   clock; in how many milliseconds time changes something, or -1; the messages granted; for each
--   that came back before: its number among them, from 0, and its state as granted; and 1 if it may
--   be handed a message now, 2 if somebody has taken its wish and has told its bell, else 0.

local MOST_BYTES = 4194304 -- granted at once, and one message at least: all must arrive in one call
local FIRST_STEP, MOST_IN_STEP = 8, 100
local although, limit, waiter = ARGV[1] == '1', tonumber(ARGV[2]), ARGV[3]
local first_queue = 7 + tonumber(ARGV[6])
local MAY, TOLD = 1, 2
local left_over = 0
local granted, states, bytes = {}, {}, 0

-- Note that one is granted that came back: what is left of its fence of before, and a loss.
local function count(id, packed)
  local state = state_of(packed)
  if state[OVERDUE] == 1 then
    state[OVERDUE], state[LOST] = 0, state[LOST] + 1
    keep_state(id, state)
  end
  states[#states + 1] = #granted
  states[#states + 1] = cmsgpack.pack(state)
  return state[FENCE] + 1
end

-- Those that do not fit go back to their places.
local function grant_some(queue, limit)
  local popped = call('ZPOPMIN', READY .. queue, limit)
  local ids = {}
  for i = 1, #popped, 2 do
    ids[#ids + 1] = popped[i]
  end
  local found = call('HMGET', MESSAGES, unpack(ids))
  local before = call('HMGET', STATES, unpack(ids))
  local held, first, taken = {}, nil, 0
  for i, id in ipairs(ids) do
    local message = found[i]
    if message and #granted > 0 and bytes + #message > MOST_BYTES then
      left_over = 1
      break
    end
    taken = i
    if message then -- else somebody deleted it by hand: its place goes, and stops nobody
      local fence = before[i] and count(id, before[i]) or 1
      local expiry = now + struct.unpack('>I5', message, 15)
      first = math.min(first or expiry, expiry)
      granted[#granted + 1] = message
      bytes = bytes + #message
      held[#held + 1] = expiry
      held[#held + 1] = id .. string.sub(message, 1, 8) .. struct.pack('>I4', fence)
    end
  end
  if first then
    call('ZADD', HELD .. queue, unpack(held))
    plan(queue, first)
  end
  for i = taken + 1, #ids do
    call('ZADD', READY .. queue, popped[2 * i], ids[i])
  end
end

-- Return how many are looked at next: as many as fit if they are like those that are granted.
local function step()
  if #granted == 0 then
    return FIRST_STEP
  end
  local fit = math.floor((MOST_BYTES - bytes) / (bytes / #granted))
  return math.max(1, math.min(fit, MOST_IN_STEP))
end

-- In steps, since messages may be large, and whoever waits for the server must not wait for long.
local function grant(queue, limit)
  while left_over == 0 and limit > 0 do
    local some = math.min(step(), limit)
    grant_some(queue, some)
    limit = limit - some
  end
end

-- Return how many are granted of each queue: as many of each, to within one, as long as it has them.
local function shares(ready)
  local left, share = limit, {}
  for i = 1, #ready do
    share[i] = 0
  end
  while left > 0 do
    local hungry = {}
    for i = 1, #ready do
      if share[i] < ready[i] then
        hungry[#hungry + 1] = i
      end
    end
    if #hungry == 0 then
      break
    end
    local each = math.max(1, math.floor(left / #hungry))
    for _, i in ipairs(hungry) do
      local more = math.min(each, ready[i] - share[i], left)
      share[i], left = share[i] + more, left - more
    end
  end
  return share
end

-- Have it be rung for these queues, or for none if it got all that it asked for. One that found
-- nothing may be handed a message, but not if that is on its way to it. Nothing is written if nothing
-- is new: it asks once a second. Returns what stands of its wish.
local function wish(queues)
  local stands = call('HGET', IDLE, waiter)
  local told = ARGV[4] == '1' and not stands
  local idle = #granted == 0 and limit > 0 and not told
  local sorted = {}
  for i, queue in ipairs(queues) do
    sorted[i] = queue -- not by `unpack`, which has room for some 8,000
  end
  table.sort(sorted)
  local wanted = idle and table.concat(sorted, ' ')
  if wanted and stands ~= wanted then
    call('HSET', IDLE, waiter, wanted)
  elseif stands and not wanted then
    call('HDEL', IDLE, waiter)
  end
  for _, queue in ipairs(queues) do
    if #granted < limit then
      call('ZADD', WAITING .. queue, 'NX', now, waiter)
    else
      call('ZREM', WAITING .. queue, waiter)
    end
  end
  return told and TOLD or idle and MAY or 0
end

local function ready_in(queue)
  local paused = call('SISMEMBER', PAUSED, queue) == 1
  return paused and 0 or call('ZCARD', READY .. queue)
end

-- Take it from the queues that it claims from no more. It may have been rung for one of them after
-- its last claim, and does not look there now: another must
-- (test_a_ring_for_a_queue_that_is_claimed_from_no_more_is_passed_on).
local function withdraw()
  for i = 7, first_queue - 1 do
    local queue = ARGV[i]
    local was_rung = call('ZREM', WAITING .. queue, waiter, ARGV[5]) == 0
    if was_rung and ready_in(queue) > 0 then
      ring(queue)
    end
  end
end

-- Give back what a name was told of that nobody hears any more, uncounted: it waits for nobody.
local function give_back(lost)
  call('HDEL', IDLE, lost)
  for i = first_queue, #ARGV do
    call('ZREM', WAITING .. ARGV[i], lost)
  end
  local handed = call('GET', HANDED .. lost)
  if not handed then
    return
  end
  call('DEL', HANDED .. lost)
  local lease, queue = string.sub(handed, 1, 28), string.sub(handed, 29)
  if call('ZREM', HELD .. queue, lease) == 1 then
    local id, place = string.sub(lease, 1, 16), struct.unpack('>I8', lease, PLACE)
    keep_state(id, { 1, 0, 0, 0, now, 0 })
    call('ZADD', READY .. queue, place, id)
    call('ZREM', WAITING .. queue, waiter, lost) -- it asks now, if it still claims from there
    ring(queue)
  end
end

local more_is_due = sweep()
if more_is_due and not although then
  return { 1, now, 0, granted, states, 0 }
end
if ARGV[4] ~= '1' and waiter ~= '' then
  call('DEL', HANDED .. waiter) -- it has heard that
end
withdraw()
if ARGV[5] ~= '' then
  give_back(ARGV[5])
end
local queues, ready = {}, {}
for i = first_queue, #ARGV do
  queues[#queues + 1] = ARGV[i]
  ready[#ready + 1] = ready_in(ARGV[i])
end
local share = shares(ready)
for i, queue in ipairs(queues) do
  grant(queue, share[i])
end
local wished = waiter ~= '' and wish(queues) or 0
for i, queue in ipairs(queues) do
  if ready[i] > share[i] then
    ring(queue)
  end
end
return { left_over, now, next_in(), granted, states, wished }
