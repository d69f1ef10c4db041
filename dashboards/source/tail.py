"""The tail-latency experiment: the store slows 16-fold for a while, and the consumer is to notice little of it."""

from panels import PIPELINE, board, filled, graph, heat, quantile, quantiles, rate

DASHBOARD = filled(
    board("tail", "Tail latency", "A slow database beside what the pipeline makes of it: as long as max_in_flight allows, concurrency takes the latency up and the rate stays.", ("pipeline", "step")),
    (
        "Cause",
        [
            graph("Store latency", "p50, p95 and p99 of the store's answers.", "s", *quantiles("messina_step_seconds", ""), log=True),
            heat("Store latency, all of it", "How many requests took how long.", "messina_step_seconds"),
        ],
    ),
    (
        "Effect",
        [
            graph("Rate", "Records taken and ended a second: the line to watch.", "cps", (f"sum({rate('messina_received_total')})", "taken"), (f"sum({rate('messina_records_total')})", "ended"), width=8),
            graph("Concurrency load", "Share of max_in_flight in use. By Little's law it is rate × latency ÷ max_in_flight; what rows of a grouped write wait for others is load, and not in that latency.", "percentunit", (f"max(messina_concurrency_load_ratio{{{PIPELINE}}})", "load"), (f"sum({rate('messina_step_seconds_sum')}) / sum(messina_max_in_flight{{{PIPELINE}}})", "Little's law, of the steps"), top=1, width=8),
            graph("Bound", "The bound of the concurrency; it moves under max_in_flight = \"auto\".", "short", (f"sum(messina_concurrency_limit{{{PIPELINE}}})", "bound"), (f"sum(messina_in_flight_records{{{PIPELINE}}})", "in flight"), width=8),
            graph("Consumer loop: decode", "The consumer loop decodes inline and waits for no store: these do not move.", "s", (quantile(0.5, "messina_stage_seconds", "", more=', stage="decode"'), "p50"), (quantile(0.95, "messina_stage_seconds", "", more=', stage="decode"'), "p95"), log=True, width=8),
            graph("Events", "From admission to end, p50 to p99.", "s", *quantiles("messina_event_seconds", ""), log=True, width=8),
            graph("Lag", "Age of the record that is behind most.", "s", (f"max(messina_lag_seconds{{{PIPELINE}}})", "lag"), width=8),
        ],
    ),
)
