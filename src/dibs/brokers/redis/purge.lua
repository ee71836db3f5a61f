#!lua flags=allow-oom
-- Remove, in one step of several, what is ready or scheduled.
--
-- ARGV: the queue; the last number that is removed, '' for that of this moment; how many of those
--   first due were left, being newer.
-- Returns: how many were removed; the last number; how many were left; 1 if there may be more.

local queue, left = ARGV[1], tonumber(ARGV[3])
local last = tonumber(ARGV[2] ~= '' and ARGV[2] or call('GET', COUNTER) or 0)
local ids = {}

for priority = 9, 0, -1 do
  local from, to = place_of(0, priority), place_of(last, priority)
  local room = MOST_SWEPT - #ids
  if room > 0 then
    local found = call('ZRANGEBYSCORE', READY .. queue, from, to, 'LIMIT', 0, room)
    if #found > 0 then
      call('ZREM', READY .. queue, unpack(found))
    end
    for _, id in ipairs(found) do
      ids[#ids + 1] = id
    end
  end
end
local room = MOST_SWEPT - #ids
local later = room > 0 and call('ZRANGE', SCHEDULED .. queue, left, left + room - 1) or {}
for _, member in ipairs(later) do
  if struct.unpack('>I7', member) <= last then
    call('ZREM', SCHEDULED .. queue, member)
    ids[#ids + 1] = string.sub(member, 9)
  else
    left = left + 1
  end
end
if #ids > 0 then
  forget(ids)
  call('HDEL', AWAITED, unpack(ids))
end
local more = #ids == MOST_SWEPT or (room > 0 and #later == room)
return { #ids, last, left, more and 1 or 0 }
