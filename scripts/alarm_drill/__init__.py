"""scripts/alarm-drill: injects faults into a real stack, and waits for the alert of each at a webhook."""
