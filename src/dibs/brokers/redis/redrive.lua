#!lua
-- Send dead letters back. (No flag: their number is what is waited for, as after a publish.)
--
-- ARGV: ids.
-- Returns for each: '' if it is ready again, its own id if it is no dead letter, and otherwise the id
--   of the live message that has its unique key.

local function redrive(id)
  local place, _, _, queue = read_head(call('HGET', MESSAGES, id))
  if not place or not call('ZSCORE', DEAD, id) then
    return id
  end
  local key = call('HGET', KEYED, id)
  if key and call('HSETNX', TAKEN, key, id) == 0 then
    return call('HGET', TAKEN, key)
  end
  local fence = state_of(call('HGET', STATES, id))[FENCE]
  keep_state(id, { fence, 0, 0, 0, now, 0 })
  call('ZREM', DEAD, id)
  call('ZREM', DEAD_OF .. queue, id)
  call('ZADD', READY .. queue, place, id)
  return '', queue
end

local answers, queues = {}, {}
for _, id in ipairs(ARGV) do
  local answer, queue = redrive(id)
  answers[#answers + 1] = answer
  queues[queue or false] = true
end
queues[false] = nil
for queue in pairs(queues) do
  ring(queue)
end
return answers
