"""Where a run's telemetry waits in storage: one file on local disk, segments on an object store."""
