-- The catalog was told of these saves, or of later ones: they need not be told again.
-- KEYS  1 saves that the catalog must be told of      ARGV  1 per save 40 bytes: saga and id (32), saved (8, us)
for at = 1, #ARGV[1], 40 do
  local member = string.sub(ARGV[1], at, at + 31)
  local saved = redis.pcall('ZSCORE', KEYS[1], member)
  if type(saved) == 'string' and tonumber(saved) <= struct.unpack('>l', string.sub(ARGV[1], at + 32, at + 39)) then
    redis.call('ZREM', KEYS[1], member)
  end
end
return 1
