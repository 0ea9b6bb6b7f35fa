"""What an operator asks for without a schedule: verify, rebuild, adopt, survey, back keys up.

Each is a function over the parts that jobs run with, and gives a report.
It never runs by itself, and never takes the bucket at its word where a catalog can vouch.
"""
