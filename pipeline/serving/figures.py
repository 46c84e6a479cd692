"""What the service tells Prometheus. Each replica tells of itself alone, under its own name."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64)


class Figures:
    """Of one replica; every series has its name as the label `replica`."""

    def __init__(self, replica: str):
        registry = CollectorRegistry()
        counter = Counter("ganline_requests", "answered", ["path", "status", "replica"], registry=registry)
        seconds = Histogram("ganline_request_seconds", "from the first byte to the last", ["path", "replica"],
                            buckets=_SECONDS, registry=registry)  # fmt: skip
        self._registry, self._replica, self._requests, self._seconds = registry, replica, counter, seconds
        self.images = self._of(Counter("ganline_images", "given", ["replica"], registry=registry))
        self.batch_rows = self._of(
            Histogram("ganline_batch_rows", "images a batch", ["replica"], buckets=_ROWS, registry=registry)
        )
        self.waiting = self._of(Gauge("ganline_waiting_images", "not begun yet", ["replica"], registry=registry))
        self.version = self._of(Gauge("ganline_version", "that answers", ["replica"], registry=registry))
        self.swaps = self._of(Counter("ganline_swaps", "to another version", ["replica"], registry=registry))
        self.registry_away = self._of(Gauge("ganline_registry_away", "1: it is", ["replica"], registry=registry))
        self.trouble = self._of(
            Gauge("ganline_trouble", "1: the alias names what can not be served", ["replica"], registry=registry)
        )

    def answered(self, path: str, status: int, seconds: float) -> None:
        self._requests.labels(path, str(status), self._replica).inc()
        self._seconds.labels(path, self._replica).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def _of(self, series):
        return series.labels(self._replica)
