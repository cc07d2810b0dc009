"""The nodes: aiohttp and python-socketio at the browsers' side, RabbitMQ and Redis at the other. Never Postgres."""
