"""What the agent counts and times, in Prometheus' terms. Each metric is documented by its help text."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one agent, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"netagent_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"netagent_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"netagent_{name}", text, labels, registry=registry, buckets=_SECONDS)

        self.event_to_kernel_seconds = histogram(
            "event_to_kernel_seconds", "From an event's arrival to its rules in the kernel.", "kind", "source"
        )
        self.apply_seconds = histogram("apply_seconds", "Reading, planning and committing a table.", "table", "backend")
        self.applies_total = counter("applies_total", "Commits of a table.", "table", "backend")
        self.apply_errors_total = counter("apply_errors_total", "Attempts to apply that failed, by reason.", "reason")
        self.apply_retries_total = counter("apply_retries_total", "Attempts begun anew since a table had changed.")
        self.drift_repairs_total = counter("drift_repairs_total", "Edits that undid somebody else's.", "what")
        self.lock_wait_seconds = histogram("lock_wait_seconds", "Waiting for the lock of the packet filter.")
        self.edits_total = counter("edits_total", "Edits made in the kernel.", "op")
        self.rules = gauge("rules", "Rules of ours in the kernel.", "family", "table")
        self.chains = gauge("chains", "Chains of ours in the kernel.", "family", "table")
        self.objects = gauge("objects", "Described objects.", "kind", "state")
        self.pending_oldest_seconds = gauge(
            "pending_oldest_seconds", "Age of the oldest change that the kernel does not have yet."
        )
        self.resync_seconds = histogram("resync_seconds", "Reading everything back and repairing it.")
        self.rpc_messages_total = counter("rpc_messages_total", "RPC messages.", "method", "result")
        self.rpc_connected = Gauge(
            "netagent_rpc_connected",
            "1 while RPC is connected to a broker, else 0; not there without RPC.",
            registry=None,
        )
        self.rpc_syncs_total = counter("rpc_syncs_total", "Whole states asked of a controller.", "result")
        self.http_requests_total = counter("http_requests_total", "HTTP requests.", "method", "route", "code")
        self.http_request_seconds = histogram("http_request_seconds", "Answering an HTTP request.", "method", "route")
        self.conntrack_deleted_total = counter(
            "conntrack_deleted_total", "Connection-tracking entries deleted since the rules forbid them now."
        )
        self.security_group_log_packets_total = counter(
            "security_group_log_packets_total",
            "Packets that the log of security groups is about: logged; limited, kept out by rate (told at a resync);"
            " lost, as too many waited for the agent; unwritten, as the file could not be had.",
            "result",
        )
        self.dnsmasq_events_total = counter(
            "dnsmasq_events_total",
            "What became of dnsmasqs: starts, stops, reloads, crashes, adoptions.",
            "what",
        )
        self.store_seconds = histogram("store_seconds", "Making a change durable.")

    def with_rpc(self) -> None:
        """Tell of the connection to a broker as well: where there is to be none, its lack is no trouble."""
        self.registry.register(self.rpc_connected)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
