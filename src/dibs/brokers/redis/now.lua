-- The one reading of a clock, put before every script: the server's, in milliseconds since 1970.
local function read_clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

