"""Messages between our own processes and the names they travel under. Imports nothing else of ours."""
