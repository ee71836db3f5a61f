"""AMQP in steps: connections that go forward only while somebody asks them something.

Owns: the socket, the frames and the limits of waiting, over pika's handshake and requests.
Must never: know what a message of dibs is, run in a thread, or wait without a limit.
Called by: the RabbitMQ adapter.
"""
