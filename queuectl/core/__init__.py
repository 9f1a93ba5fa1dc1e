"""The pure core: what a job is, what its file is called, when it is tried again.

Nothing here reads a clock, a file, the environment or a random number; whoever calls passes them in.
"""
