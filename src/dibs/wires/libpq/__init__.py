"""PostgreSQL by libpq: connections whose every call has an end.

What a broker, and whatever else dibs may keep there, share; it knows no queue.
"""
