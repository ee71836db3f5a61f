"""What speaks to servers: a package for each protocol, which the adapter of a broker stands on.

Owns: connections whose every call has an end, addresses, bells, and how bytes lie on each wire.
Must never: know the broker contract, or another of these packages. Called by: `dibs.brokers`.
"""
