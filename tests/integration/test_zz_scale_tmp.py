import asyncio, json, time, tracemalloc, uuid, resource
import asyncpg
import pytest
from support.sagaz_stores import InPostgreSQL, InRedis, theirs
from support.snapshots import make, number
from support.tiers import NOW
from sagaz_tiering.clock import VirtualClock

async def walk(source):
    n=0; t=time.time(); first=None; last=None
    async for s in source.iter_snapshots():
        if first is None: first=time.time()-t
        k=(s.saga_id.int,s.created_at,s.step_index,s.snapshot_id.int); assert last is None or k>last; last=k
        n+=1
    return n, round(first,1), round(time.time()-t,1)

async def test_redis(redis_url):
    st=InRedis(redis_url); N=60000
    w=st.writer()
    async with st.client() as c:
        for i in range(0,N,2000):
            p=c.pipeline(transaction=False)
            for j in range(i,i+2000):
                d=theirs(make(j,saga_id=number(10**6+(j*7919)%12000),context={"order":"x%d"%j,"pad":"abc"*300})).to_dict()
                p.set(f"snapshot:{d['snapshot_id']}", w._serialize(d))
            await p.execute()
    tracemalloc.start()
    async with st.source(VirtualClock(NOW)) as s:
        print("redis", await walk(s), "peak MB", tracemalloc.get_traced_memory()[1]/1e6)
    tracemalloc.stop()

async def test_pg(database):
    st=InPostgreSQL(database); N=60000
    async with st.writer() as w: pass
    async with st.client() as c:
        await c.executemany("INSERT INTO saga_snapshots VALUES ($1,$2,'n','s',$3,'x',$4,'[]',$5,null)", [(number(j), number(10**6+(j*7919)%12000) if j%2 else number(5), j, json.dumps({"order":j,"pad":"abc"*300}), NOW) for j in range(N)] if False else [(number(j), number(10**6+(j*7919)%12000) if j%2 else number(5), j, json.dumps({"order":j,"pad":"abc"*300}), NOW.replace(microsecond=j)) for j in range(N)])
    tracemalloc.start()
    async with st.source(VirtualClock(NOW)) as s:
        print("pg", await walk(s), "peak MB", tracemalloc.get_traced_memory()[1]/1e6)
