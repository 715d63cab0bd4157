"""Sessions as notebooks: recorded, replayed, compared and shown."""
