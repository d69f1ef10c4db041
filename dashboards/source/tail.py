"""The tail-latency experiment: the store is 16 times slower for a while, and the consumer should hardly notice."""

from panels import PIPELINE, board, filled, graph, heat, quantile, quantiles, rate

DASHBOARD = filled(
    board("tail", "Tail latency", "A slow database, and its effect on the pipeline: concurrency absorbs the latency and the rate stays the same, as long as max_in_flight allows.", ("pipeline", "step")),
    (
        "Cause",
        [
            graph("Store latency", "p50, p95 and p99 of the time that the store takes to answer.", "s", *quantiles("messina_step_seconds", ""), log=True),
            heat("Store latency, distribution", "How many requests took how long.", "messina_step_seconds"),
        ],
    ),
    (
        "Effect",
        [
            graph("Rate", "Records taken and finished per second. This is the graph to watch.", "cps", (f"sum({rate('messina_received_total')})", "taken"), (f"sum({rate('messina_records_total')})", "finished"), width=8),
            graph("Concurrency load", "Share of max_in_flight in use. By Little's law it is rate × latency ÷ max_in_flight. The time that rows of a grouped write wait for others adds load, but not latency.", "percentunit", (f"max(messina_concurrency_load_ratio{{{PIPELINE}}})", "load"), (f"sum({rate('messina_step_seconds_sum')}) / sum(messina_max_in_flight{{{PIPELINE}}})", "Little's law, of the steps"), top=1, width=8),
            graph("Concurrency limit", "Current limit of concurrent events, and records in flight. The limit moves with max_in_flight = \"auto\".", "short", (f"sum(messina_concurrency_limit{{{PIPELINE}}})", "limit"), (f"sum(messina_in_flight_records{{{PIPELINE}}})", "in flight"), width=8),
            graph("Consumer loop: decode", "The consumer loop decodes inline and waits for no store, so these lines should stay flat.", "s", (quantile(0.5, "messina_stage_seconds", "", more=', stage="decode"'), "p50"), (quantile(0.95, "messina_stage_seconds", "", more=', stage="decode"'), "p95"), log=True, width=8),
            graph("Event duration, p50 to p99", "From the admission of an event until it was done or skipped.", "s", *quantiles("messina_event_seconds", ""), log=True, width=8),
            graph("Lag", "Age of the first unfinished record in the partition furthest behind.", "s", (f"max(messina_lag_seconds{{{PIPELINE}}})", "lag"), width=8),
        ],
    ),
)
