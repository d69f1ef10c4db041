"""The first dashboard that is opened: is it well, and if not, where to look next."""

from panels import PIPELINE, PROCESS, board, filled, graph, heat, number, quantile, rate, rows

# Where a filter skips most records, those would hide that all others fail.
NOT_SKIPPED = ', outcome!="skipped"'

DASHBOARD = filled(
    board("overview", "Overview", "Rate, errors and durations of every pipeline, lag in seconds, and what is used up. Start here."),
    (
        "Is it well?",
        [
            number("Processes", "Processes that Prometheus reaches. Fewer than you run: some are down.", "short", f"count(messina_build_info{{{PROCESS}}})", "red", (1, "green"), width=3),
            number("Not ready", "Processes that are not ready: they wait, or a pipeline of theirs has halted or stands still.", "short", f"count(messina_ready{{{PROCESS}}} == 0) or vector(0)", "green", (1, "red"), width=3),
            number("Records a second", "Records that ended, in any way.", "cps", f"sum({rate('messina_records_total')})"),
            number("Lag", "Age of the record that is behind most, over all partitions. This is how late outputs are.", "s", f"max(messina_lag_seconds{{{PIPELINE}}})", "green", (30, "yellow"), (60, "red")),
            number("Dead letters", "Share of the records that became dead letters, of those that were not skipped.", "percentunit", f"sum({rate('messina_dead_letters_total')}) / sum({rate('messina_records_total', more=NOT_SKIPPED)})", "green", (0.001, "yellow"), (0.01, "red")),
            number("Stalled partitions", "Partitions with lag that make no progress. Any is one too many.", "short", f"sum(messina_stalled_partitions{{{PIPELINE}}})", "green", (1, "red"), width=3),
            number("Open breakers", "Dependencies whose breaker is open or half-open: they fail, and are asked only by a probe.", "short", f"count(messina_breaker_state{{{PROCESS}}} > 0) or vector(0)", "green", (1, "red"), width=3),
        ],
    ),
    (
        "Rate, errors, durations",
        [
            graph("Records ended", "Records that ended, by outcome: done, skipped by a filter, dead-lettered.", "cps", (f"sum by (pipeline, outcome) ({rate('messina_records_total')})", "{{pipeline}} {{outcome}}")),
            graph("Failures", "Failed attempts by class and level. warn: it is tried again. error: it is not: the record is a dead letter, is skipped or goes on without the answer as `on_error` says, or runs again from the last commit. fatal: the pipeline stops.", "cps", (f"sum by (pipeline, class, level) ({rate('messina_failures_total')})", "{{pipeline}} {{class}} {{level}}")),
            graph("Event duration", "From the admission of an event until its end, retries included: p50 and p99 over all processes.", "s", (quantile(0.5, "messina_event_seconds"), "{{pipeline}} p50"), (quantile(0.99, "messina_event_seconds"), "{{pipeline}} p99"), log=True),
            heat("Event durations, all of them", "How many events took how long. Two bands are two kinds of events: cache hits and misses, for example.", "messina_event_seconds"),
        ],
    ),
    (
        "Lag",
        [
            graph("Lag in seconds", "Age of the first unfinished record, by its own timestamp, while there is lag. The worst partition of each pipeline.", "s", (f"max by (pipeline) (messina_lag_seconds{{{PIPELINE}}})", "{{pipeline}}"), thresholds=[(60, "red")]),
            graph("Lag in records", "Records from the first unfinished one to the end, over all partitions.", "short", (f"sum by (pipeline) (messina_lag_records{{{PIPELINE}}})", "{{pipeline}}")),
            rows("Worst partitions", "The ten partitions that are behind most, now.", "s", (f"topk(10, max by (pipeline, topic, partition) (messina_lag_seconds{{{PIPELINE}}}))", "lag, s"), width=24),
        ],
    ),
    (
        "Saturation",
        [
            graph("Concurrency load", "Events being worked on over max_in_flight. 100 %: more cannot be worked on at the same time, and the store's latency limits the rate.", "percentunit", (f"max by (pipeline) (messina_concurrency_load_ratio{{{PIPELINE}}})", "{{pipeline}}"), top=1, thresholds=[(0.95, "orange")], width=8),
            graph("Memory in flight", "Bytes in flight over what the memory budget lets a consumer hold of them. 100 %: it takes no more until they are down to 80 %, and pauses its partitions if that lasts.", "percentunit", (f"max by (pipeline) (messina_in_flight_bytes_ratio{{{PIPELINE}}})", "{{pipeline}}"), top=1, thresholds=[(0.75, "orange")], width=8),
            graph("CPU", "Cores in use by each process.", "short", (f"rate(messina_process_cpu_seconds_total{{{PROCESS}}}[$__rate_interval])", "{{instance}}"), width=8),
        ],
    ),
)
