"""Checks of the job files in nomad/, without a Nomad."""
