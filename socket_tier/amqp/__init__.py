"""The node's side of RabbitMQ: a confirmed publisher, and the queue on which answers and notices come back."""
