"""Where secrets come from (``providers``, ``vault``, ``secrets_manager``), and how a running process hears of new ones
(``watch``)."""
