"""Speed, measured beside something else in the same run. See `docs/performance.md`."""
