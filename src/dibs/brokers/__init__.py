"""The brokers: the contract they keep, the URL that chooses one, and a folder or file for each."""
