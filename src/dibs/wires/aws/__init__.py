"""What speaks to Amazon SQS, apart from the adapter that keeps the contract with it.

Requests bounded in time, batches of ten, long polls behind a bell, and the queues of a prefix.
Must never: know the contract. Called by: `dibs.brokers.sqs`.
"""
