"""Workers: take commands from RabbitMQ, decide them in Postgres, publish what changed."""
