"""The shape of data, on the wire and in tables: the only code that both tiers share."""
