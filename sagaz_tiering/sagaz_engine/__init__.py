"""What meets the `sagaz` engine: capture of its sagas, time travel over long ones, import of what it stored.

It never imports anything of sagaz before it is used, so it works where sagaz is not installed.
"""
