"""The worker: the pump that alone talks to the broker, and the service that starts and stops it."""
