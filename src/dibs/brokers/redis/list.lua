#!lua flags=no-writes
-- List the messages of one state, in order.
--
-- ARGV: the state: `ready`, `scheduled`, `in flight` or `dead`; the queue, or '' for all, one after
--   the other (the dead of all queues are one list); how many; and to go on after one of a list
--   before: its queue, score and member.
-- Returns: for each its queue, its score, and a member of a sorted set whose last 16 bytes are an id.

local state, limit = ARGV[1], tonumber(ARGV[3])
local begins_in, after_score, after_member = ARGV[4] or '', ARGV[5] or '-inf', ARGV[6] or ''
local listed = {}

local function list(queue, score, member)
  listed[#listed + 1] = queue
  listed[#listed + 1] = score
  listed[#listed + 1] = member
end

-- The members of a set from after a score and member on; those of one score are in the order of
-- their bytes.
local function list_set(queue, key, score, member, count)
  local from, to = call('ZCOUNT', key, '-inf', '(' .. score), call('ZCOUNT', key, '-inf', score)
  while from < to do
    local middle = math.floor((from + to) / 2)
    if call('ZRANGE', key, middle, middle)[1] > member then
      to = middle
    else
      from = middle + 1
    end
  end
  local found = call('ZRANGE', key, from, from + count - 1, 'WITHSCORES')
  for i = 1, #found, 2 do
    list(queue, found[i + 1], found[i])
  end
end

-- Leases lie in the order of their expiries, and are shown in that of their numbers: the lowest
-- `count` are picked out of all, at half a microsecond each.
local function list_held(queue, after, count)
  local first = {}
  for start = 0, call('ZCARD', HELD .. queue) - 1, 1000 do
    for _, lease in ipairs(call('ZRANGE', HELD .. queue, start, start + 999)) do
      local number = struct.unpack('>I8', lease, PLACE) % PER_PRIORITY
      local last = first[#first]
      if number > after and (#first < count or number < last.number) then
        local at = #first
        while at > 0 and first[at].number > number do
          at = at - 1
        end
        table.insert(first, at + 1, { number = number, id = string.sub(lease, 1, 16) })
        first[count + 1] = nil
      end
    end
  end
  for _, one in ipairs(first) do
    list(queue, string.format('%.0f', one.number), one.id)
  end
end

local queues = { ARGV[2] }
if ARGV[2] == '' and state ~= 'dead' then
  queues = call('SMEMBERS', QUEUES)
  table.sort(queues)
end
for _, queue in ipairs(queues) do
  local left = limit - #listed / 3
  if queue >= begins_in and left > 0 then
    local goes_on = queue == begins_in
    local score = goes_on and after_score or '-inf'
    local member = goes_on and after_member or ''
    if state == 'in flight' then
      list_held(queue, tonumber(score) or -1, left)
    elseif state == 'dead' and queue == '' then
      list_set(queue, DEAD, score, member, left)
    else
      list_set(queue, ns .. state .. ':' .. queue, score, member, left)
    end
  end
end
return listed
