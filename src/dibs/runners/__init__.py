"""The runners: what runs user code in slots, on both sides of the socket pairs."""
