#!lua flags=allow-oom
-- Pause a queue, or let it go on and wake one who waits for it.
--
-- ARGV: the queue; 1 to pause it, 0 to resume it.

local queue = ARGV[1]
if ARGV[2] == '1' then
  call('SADD', QUEUES, queue)
  call('SADD', PAUSED, queue)
else
  call('SREM', PAUSED, queue)
  ring(queue)
end
