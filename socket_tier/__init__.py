"""The nodes: aiohttp and python-socketio at the browsers' side, RabbitMQ and Redis at the other. Never Postgres.

What Redis and nodes know can be rebuilt. Who writes each fact, which of two wins, and what makes it right again:

choice (Redis)      nodes behind the ack, workers after the commit: the highest seq. A refused vote's seq stays there,
                    and up to it the database is asked. Right within about half a second of the commit; what is missing
                    is asked for at the resume.
choice (node)       acks here, refusals by way of any node: the highest seq. Redis or the database at the next resume.
nickname            nodes reserve, registrations make it durable, nodes put back what an emptied Redis lacks. A
                    reservation ends by itself; workers restore what is stored with the room.
presence            each node its own, once a second after Redis failed. Another node counts out one that is silent for
                    room.node_timeout_s.
roles               a registration or claim, in Redis for the resume; the database where Redis doesn't know the browser.
state               workers, told to all nodes: the latest change. Nodes read rooms anew after each gap in the notices.
totals              workers at each tick: the highest version. A sweep finds what was not published (worker.sweep_s).
token generation    workers: only ever higher. With the state.
poll                retention and restores end it: nodes are told, or ask when a worker says that it is gone.
rate limits         nodes, for seconds; lost with Redis, when each node limits by itself.
"""
