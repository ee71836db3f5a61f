#!lua flags=allow-oom
-- Say how messages ended, and note who is to be rung when the others do.
--
-- ARGV: whose bell, or ''; how many ids it waits for no more, and those; then the ids to look for.
-- Returns for each: nothing if it has not ended; otherwise an array, empty if nothing is kept, of
--   its result with '=' before it, or '' for none; or of the state and attempts of a dead letter.

local waiter, given_up = ARGV[1], tonumber(ARGV[2])

local function await(id)
  local waiters = call('HGET', AWAITED, id) or ''
  if not string.find(waiters, waiter, 1, true) then
    call('HSET', AWAITED, id, waiters .. waiter .. ' ')
  end
end

local function await_no_more(id)
  local others = string.gsub(call('HGET', AWAITED, id) or '', waiter .. ' ', '')
  if others == '' then
    call('HDEL', AWAITED, id)
  else
    call('HSET', AWAITED, id, others)
  end
end

local function end_of(id)
  if call('HEXISTS', MESSAGES, id) == 1 then
    local state = call('HGET', STATES, id)
    if state_of(state)[REASON] then
      return { state, call('HGET', ATTEMPTS, id) }
    end
    return false
  end
  -- The moment that is written in it counts, as all moments here do: the server drops it later.
  local kept = call('GET', RESULT .. id)
  return kept and struct.unpack('>I6', kept) > now and { string.sub(kept, 7) } or {}
end

for i = 3, 2 + given_up do
  await_no_more(ARGV[i])
end
local answers = {}
for i = 3 + given_up, #ARGV do
  local answer = end_of(ARGV[i])
  answers[#answers + 1] = answer
  if not answer and waiter ~= '' then
    await(ARGV[i])
  end
end
return answers
