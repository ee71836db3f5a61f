"""What speaks to a server of the Redis protocol: addresses, a bounded connection, scripts, a bell.

Must never: know a message, or what a key is for. Called by: the Redis broker.
"""
