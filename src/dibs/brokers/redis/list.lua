#!lua flags=no-writes
-- List the members of one of the sorted sets in which a state is, in order.
--
-- ARGV: the key, without the namespace; the score and the member after which to begin; how many.
-- Returns: the members, each with its score.

local key, score, member = ns .. ARGV[1], ARGV[2], ARGV[3]
local from, to = call('ZCOUNT', key, '-inf', '(' .. score), call('ZCOUNT', key, '-inf', score)

-- Those of one score are in the order of their bytes: find the first that comes after `member`.
while from < to do
  local middle = math.floor((from + to) / 2)
  if call('ZRANGE', key, middle, middle)[1] > member then
    to = middle
  else
    from = middle + 1
  end
end
return call('ZRANGE', key, from, from + ARGV[4] - 1, 'WITHSCORES')
