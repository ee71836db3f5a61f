#!lua flags=allow-oom
-- Renew leases, each if it is current, and also if it ran out and was not granted again.
--
-- ARGV: for each lease its queue, its visibility timeout, and the lease.
-- Returns for how many milliseconds each is held from now; -1 if it is another's.

local answers = {}
for at = 1, #ARGV, 3 do
  local queue, lease = ARGV[at], ARGV[at + 2]
  local until_ms = now + tonumber(ARGV[at + 1])
  local expiry = call('ZSCORE', HELD .. queue, lease)
  if expiry then
    until_ms = math.max(until_ms, tonumber(expiry))
    call('ZADD', HELD .. queue, until_ms, lease)
  elseif revive(queue, string.sub(lease, 1, 16), lease) then
    call('ZADD', HELD .. queue, until_ms, lease)
    plan(queue, until_ms)
  else
    until_ms = now - 1
  end
  answers[#answers + 1] = until_ms - now
end
return answers
