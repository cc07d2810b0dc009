"""The scaler: as many workers and nodes as their load asks for, and no more changes than that takes."""
