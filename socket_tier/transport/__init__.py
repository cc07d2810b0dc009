"""Engine.IO under python-socketio's public API, without a task or a timer per message.

aiohttp parses and closes WebSockets; what it has parsed is handed over in the same step, and frames are written
straight to the TCP transport. ``node.transport = "stock"`` falls back to engine.io's own sockets.
"""
