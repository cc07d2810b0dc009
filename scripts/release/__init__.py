"""The way of a version from a checkout to production, stage by stage."""
