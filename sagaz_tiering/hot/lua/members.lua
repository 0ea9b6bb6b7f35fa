-- In front of scripts that read a saga's index, whose members end with the ids of its snapshots.
local HEX = string.rep('%02x', 16)
-- The snapshot id in hex that a member of the index ends with; '' for what is no member of ours.
local function id_of(member)
  return #member == 20 and string.format(HEX, string.byte(member, 5, 20)) or ''
end
-- The header of the newest snapshot of a saga: false where that is `except`, '' where it is gone or something else is there.
local function newest_but(index, except)
  local newest = redis.pcall('ZREVRANGE', index, 0, 0)
  local id = newest[1] and id_of(newest[1]) or ''
  if id == '' then
    return ''
  end
  if id == except then
    return false
  end
  local head = redis.pcall('GETRANGE', index .. ':' .. id, 0, 255)
  if type(head) ~= 'string' or #head < 8 then
    return ''
  end
  local length = struct.unpack('>I4', string.sub(head, 5, 8))
  return length > #head and redis.call('GETRANGE', index .. ':' .. id, 0, length - 1) or head
end
