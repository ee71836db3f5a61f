#!lua flags=allow-oom
-- Make queues known. ARGV: the queues.

-- In parts: `unpack` has room for some 8,000.
for at = 1, #ARGV, 1000 do
  call('SADD', QUEUES, unpack(ARGV, at, math.min(#ARGV, at + 999)))
end
