"""How servers and this machine's files are spoken to: connections, deadlines, event loops, their clocks, what is kept.

`redis`, `postgresql` and `aws` translate the errors of the client libraries into ours.
They never know what is asked: no key, table or object name of ours is in here.
"""
