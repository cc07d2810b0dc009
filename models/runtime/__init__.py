"""What every process needs: settings, logging, metrics, tokens."""
