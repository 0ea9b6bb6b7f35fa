"""What S3 costs: dated list prices per region, what moves cost and save, and what would be done now.

Pure: it never asks a server or a clock, and never moves anything; jobs and commands ask it.
"""
