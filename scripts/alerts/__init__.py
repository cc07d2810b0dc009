"""The role ``alerter``: looks at docker/alerts/rules.toml with Graphite's figures, and tells Alertmanager.

Several may run: what they say of one alert is one alert to Alertmanager.
"""
