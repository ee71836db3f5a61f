#!lua flags=allow-oom
-- Show messages, each where it is at this moment.
--
-- ARGV: ids.
-- Returns for each: nothing if it is not there; otherwise the message, its state or nothing, its
--   attempts or nothing, `ready`, `scheduled`, `in flight` or `dead`, in how many milliseconds
--   that ends by itself, or -1, and the moment of the clock.

local function where(id, message, state)
  local place, _, _, queue = read_head(message)
  if state[REASON] then
    return 'dead', -1
  end
  local expiry = call('ZSCORE', HELD .. queue, lease_of(id, place, state[FENCE] + 1))
  if expiry then
    return 'in flight', expiry - now
  end
  local due = call('ZSCORE', SCHEDULED .. queue, when_due(place, id))
  if due then
    return 'scheduled', due - now
  end
  return 'ready', -1
end

local shown = {}
for _, id in ipairs(ARGV) do
  local message = call('HGET', MESSAGES, id)
  local state = call('HGET', STATES, id)
  local name, ends_in = false, -1
  if message then
    name, ends_in = where(id, message, state_of(state))
  end
  shown[#shown + 1] = message and { message, state, call('HGET', ATTEMPTS, id), name, ends_in, now }
end
return shown
