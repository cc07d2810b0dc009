"""Checks of the migrations on a database of their own, with votes in it and votes coming in."""
