"""What meets the `sagaz` engine: capture of its sagas, time travel over long ones.

It imports nothing of sagaz before it is used, so it works where sagaz is not installed.
"""
