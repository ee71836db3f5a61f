#!lua flags=allow-oom
-- Remove dead letters for good.
--
-- ARGV: ids.
-- Returns how many of them were dead letters.

local gone = {}
for _, id in ipairs(ARGV) do
  if call('ZREM', DEAD, id) == 1 then
    local _, _, _, queue = read_head(call('HGET', MESSAGES, id))
    call('ZREM', DEAD_OF .. (queue or ''), id)
    gone[#gone + 1] = id
  end
end
if #gone > 0 then
  forget(gone)
end
return #gone
