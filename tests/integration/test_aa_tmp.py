async def test_a(database, redis_url):
    pass
