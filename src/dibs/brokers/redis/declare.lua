#!lua flags=allow-oom
-- Make queues known. ARGV: the queues.

if #ARGV > 0 then
  call('SADD', QUEUES, unpack(ARGV))
end
