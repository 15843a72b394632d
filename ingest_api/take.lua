-- Counts updates of one app, of all processes together, or says how long to wait; the time is the
-- server's, in microseconds.
-- KEYS: the app, then each subscription. ARGV: microseconds from one update to the next and how far
-- ahead of time one may be, of the app and then of a subscription; 0 from one to the next is no limit.
-- Returns the waits in the order of KEYS; where one is not 0, nothing was counted.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local waits, must_wait = {}, false
for place, key in ipairs(KEYS) do
  local of = place == 1 and 0 or 2
  local interval, ahead = tonumber(ARGV[of + 1]), tonumber(ARGV[of + 2])
  waits[place] = 0
  if interval > 0 then
    local until_ = tonumber(redis.call('GET', key) or 0)
    waits[place] = math.ceil(math.max(0, until_ - now - ahead))
    must_wait = must_wait or waits[place] > 0
  end
end
if not must_wait then
  for place, key in ipairs(KEYS) do
    local of, updates = 0, #KEYS - 1
    if place > 1 then of, updates = 2, 1 end
    local interval = tonumber(ARGV[of + 1])
    if interval > 0 and updates > 0 then
      local until_ = math.max(now, tonumber(redis.call('GET', key) or 0)) + updates * interval
      redis.call('SET', key, string.format('%.0f', until_), 'PX', math.ceil((until_ - now) / 1000))
    end
  end
end
return waits
