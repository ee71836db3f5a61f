"""Work queues over AMQP: connections that go forward only while somebody asks them something.

Owns: the socket and its frames, over pika's handshake and requests (`wire`, `frames`); confirmed
publishing (`press`); what is delivered, and granted to whom (`inbox`, `intake`); the names on the
server (`post`), the delays (`ladder`), and a message as it lies there (`letters`); what a failure
means to a caller (`meaning`).
Must never: know the broker contract, run in a thread, or wait without a limit.
Called by: the RabbitMQ adapter, which is the contract's verbs.
"""
