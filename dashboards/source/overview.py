"""The first dashboard to open: is Messina healthy, and if not, where to look next."""

from panels import PIPELINE, PROCESS, board, filled, graph, heat, number, quantile, rate, rows

# If a filter skips most records, they would hide that all others fail.
NOT_SKIPPED = ', outcome!="skipped"'

DASHBOARD = filled(
    board("overview", "Overview", "Start here: rate, errors, durations, lag and saturation of every pipeline."),
    (
        "Health",
        [
            number("Processes", "Processes that Prometheus reaches. If you run more, some are down.", "short", f"count(messina_build_info{{{PROCESS}}})", "red", (1, "green"), width=3),
            number("Not ready", "Processes that are not ready: they wait for a service, or one of their pipelines has halted or stalled. /readyz has the reasons.", "short", f"count(messina_ready{{{PROCESS}}} == 0) or vector(0)", "green", (1, "red"), width=3),
            number("Records per second", "Records finished: done, skipped or dead-lettered.", "cps", f"sum({rate('messina_records_total')})"),
            number("Lag", "Age of the first unfinished record in the partition furthest behind. This is how late outputs are.", "s", f"max(messina_lag_seconds{{{PIPELINE}}})", "green", (30, "yellow"), (60, "red")),
            number("Dead letters", "Share of records that became dead letters, not counting skipped ones.", "percentunit", f"sum({rate('messina_dead_letters_total')}) / sum({rate('messina_records_total', more=NOT_SKIPPED)})", "green", (0.001, "yellow"), (0.01, "red")),
            number("Stalled partitions", "Partitions with lag that make no progress. This should be 0.", "short", f"sum(messina_stalled_partitions{{{PIPELINE}}})", "green", (1, "red"), width=3),
            number("Open breakers", "Dependencies whose circuit breaker is open or half-open: they fail, and only a probe is sent.", "short", f"count(messina_breaker_state{{{PROCESS}}} > 0) or vector(0)", "green", (1, "red"), width=3),
        ],
    ),
    (
        "Rate, errors, durations",
        [
            graph("Records finished", "Records finished, by outcome: done, skipped or dead-lettered.", "cps", (f"sum by (pipeline, outcome) ({rate('messina_records_total')})", "{{pipeline}} {{outcome}}")),
            graph("Failures", "Failed attempts, by class and level. warn: it is retried. error: it is not retried; the record becomes a dead letter, is skipped or goes on without the answer as `on_error` says, or runs again from the last commit. fatal: the pipeline stops.", "cps", (f"sum by (pipeline, class, level) ({rate('messina_failures_total')})", "{{pipeline}} {{class}} {{level}}")),
            graph("Event duration", "From the admission of an event until it was done or skipped, retries included: p50 and p99 over all processes. Dead letters do not count.", "s", (quantile(0.5, "messina_event_seconds"), "{{pipeline}} p50"), (quantile(0.99, "messina_event_seconds"), "{{pipeline}} p99"), log=True),
            heat("Event duration, distribution", "How many events took how long. Two bands mean two kinds of events, such as cache hits and misses.", "messina_event_seconds"),
        ],
    ),
    (
        "Lag",
        [
            graph("Lag in seconds", "Age of the first unfinished record, by its own timestamp, while there is lag. Each pipeline's partition furthest behind.", "s", (f"max by (pipeline) (messina_lag_seconds{{{PIPELINE}}})", "{{pipeline}}"), thresholds=[(60, "red")]),
            graph("Lag in records", "Records from the first unfinished one to the end of the partition, over all partitions.", "short", (f"sum by (pipeline) (messina_lag_records{{{PIPELINE}}})", "{{pipeline}}")),
            rows("Worst partitions", "The ten partitions that are furthest behind now.", "s", (f"topk(10, max by (pipeline, topic, partition) (messina_lag_seconds{{{PIPELINE}}}))", "lag, s"), width=24),
        ],
    ),
    (
        "Saturation",
        [
            graph("Concurrency load", "Share of max_in_flight in use. At 100 % no more events can run at the same time, and the latency of their dependencies limits the rate.", "percentunit", (f"max by (pipeline) (messina_concurrency_load_ratio{{{PIPELINE}}})", "{{pipeline}}"), top=1, thresholds=[(0.95, "orange")], width=8),
            graph("Memory in flight", "Bytes in flight over what the memory budget allows a consumer. At 100 % it stops taking records until it is down to 80 %, and pauses its partitions if that lasts.", "percentunit", (f"max by (pipeline) (messina_in_flight_bytes_ratio{{{PIPELINE}}})", "{{pipeline}}"), top=1, thresholds=[(0.75, "orange")], width=8),
            graph("CPU", "Cores used by each process.", "short", (f"rate(messina_process_cpu_seconds_total{{{PROCESS}}}[$__rate_interval])", "{{instance}}"), width=8),
        ],
    ),
)
