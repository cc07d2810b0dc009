"""scripts/alarm-drill: injects one fault after another into a real stack, and waits for each one's alert at a webhook."""
