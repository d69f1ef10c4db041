"""One pipeline, stage by stage, in the order that a record passes them."""

from panels import PIPELINE, PROCESS, board, filled, graph, heat, quantile, quantiles, rate

STEP = PIPELINE + ', step=~"$step"'

DASHBOARD = filled(
    board("pipeline", "Pipeline", "The path of a record, with the time of each stage: taken, decoded, looked up, written, published, committed.", ("pipeline", "step")),
    (
        "Taken and finished",
        [
            graph("Records", "Records taken from Kafka, published and acknowledged, and finished. The lines diverge while records wait.", "cps", (f"sum by (pipeline) ({rate('messina_received_total')})", "{{pipeline}} taken"), (f"sum by (pipeline) ({rate('messina_records_total')})", "{{pipeline}} finished"), (f"sum by (pipeline) ({rate('messina_published_total')})", "{{pipeline}} published"), width=8),
            graph("Bytes taken", "Bytes of the keys and values taken from Kafka.", "Bps", (f"sum by (pipeline) ({rate('messina_record_bytes_total')})", "{{pipeline}}"), width=8),
            graph("Dead letters", "Records published to the dead-letter topic, by the class of the reason, and whether stop_above has stopped the intake.", "cps", (f"sum by (pipeline, class) ({rate('messina_dead_letters_total')})", "{{pipeline}} {{class}}"), (f"max by (pipeline) (messina_dead_letter_stop{{{PIPELINE}}})", "{{pipeline}} stopped (1)"), width=8),
        ],
    ),
    (
        "CPU stages",
        [
            graph("Decode and encode, p50 and p99", "Time to decode or encode one record. These stages do no I/O.", "s", (quantile(0.5, "messina_stage_seconds", "pipeline, stage"), "{{pipeline}} {{stage}} p50"), (quantile(0.99, "messina_stage_seconds", "pipeline, stage"), "{{pipeline}} {{stage}} p99"), log=True),
            heat("Decode, distribution", "How many records took how long to decode.", "messina_stage_seconds", ', stage="decode"'),
        ],
    ),
    (
        "Steps",
        [
            graph("Steps, p50 to p99", "Time of a step's request until its answer. Cache hits and failures do not count.", "s", *quantiles("messina_step_seconds", "pipeline, step", STEP), log=True),
            heat("Steps, distribution", "How many requests of the selected steps took how long.", "messina_step_seconds", selector=STEP),
            graph("Concurrency load against store latency", "Share of max_in_flight in use (left) and the store's p95 (right, in seconds). If the store slows down, the load rises and the rate stays the same, until the load reaches 100 %.", "percentunit", (f"max by (pipeline) (messina_concurrency_load_ratio{{{PIPELINE}}})", "{{pipeline}} load"), (quantile(0.95, "messina_step_seconds", "pipeline"), "{{pipeline}} store p95")).override_by_regexp(".*store p95", [{"id": "unit", "value": "s"}, {"id": "custom.axisPlacement", "value": "right"}]),
            graph("Events at a step", "Events at a step that asks the store: waiting for its answer, for the next attempt or for the breaker.", "short", (f"sum by (pipeline, step) (messina_step_in_flight{{{STEP}}})", "{{pipeline}} {{step}}"), stacked=True),
            graph("Rows written", "Rows written to the store and acknowledged.", "cps", (f"sum by (pipeline, step) ({rate('messina_rows_written_total', STEP)})", "{{pipeline}} {{step}}"), width=6),
            graph("Rows per batch", "Average rows in a batch, for writes with `group`.", "short", (f"sum by (pipeline, step) ({rate('messina_grouped_rows_total', STEP)}) / sum by (pipeline, step) ({rate('messina_write_batches_total', STEP)})", "{{pipeline}} {{step}}"), width=6),
            graph("Retries", "Attempts that repeat a failed one, per second.", "cps", (f"sum by (pipeline, step) ({rate('messina_retries_total', STEP)})", "{{pipeline}} {{step}}"), width=6),
            graph("Concurrency", "Records in flight, the current limit of concurrent events, and the configured one. The two differ with max_in_flight = \"auto\".", "short", (f"sum by (pipeline) (messina_in_flight_records{{{PIPELINE}}})", "{{pipeline}} in flight"), (f"sum by (pipeline) (messina_concurrency_limit{{{PIPELINE}}})", "{{pipeline}} limit"), (f"sum by (pipeline) (messina_max_in_flight{{{PIPELINE}}})", "{{pipeline}} max_in_flight"), width=6),
        ],
    ),
    (
        "Caches",
        [
            graph("Hit ratio", "Share of look-ups that the cache answered.", "percentunit", (f"sum by (pipeline, step) ({rate('messina_cache_hits_total', STEP)}) / (sum by (pipeline, step) ({rate('messina_cache_hits_total', STEP)}) + sum by (pipeline, step) ({rate('messina_cache_misses_total', STEP)}))", "{{pipeline}} {{step}}"), top=1, width=8),
            graph("Look-ups", "hit: answered by the cache. miss: asked the store. coalesced: shared the request of another look-up for the same key. stale: got an expired row, because the store failed.", "cps", (f"sum by (pipeline, step) ({rate('messina_cache_hits_total', STEP)})", "{{pipeline}} {{step}} hit"), (f"sum by (pipeline, step) ({rate('messina_cache_misses_total', STEP)})", "{{pipeline}} {{step}} miss"), (f"sum by (pipeline, step) ({rate('messina_cache_coalesced_total', STEP)})", "{{pipeline}} {{step}} coalesced"), (f"sum by (pipeline, step) ({rate('messina_cache_stale_total', STEP)})", "{{pipeline}} {{step}} stale"), width=8),
            graph("Evictions", "Entries evicted before they expired. If there are many, the cache is too small for its keys.", "cps", (f"sum by (pipeline, step) ({rate('messina_cache_evictions_total', STEP)})", "{{pipeline}} {{step}}"), width=8),
            graph("Bytes", "Bytes held by each cache.", "bytes", (f"sum by (pipeline, step) (messina_cache_bytes{{{STEP}}})", "{{pipeline}} {{step}}")),
            graph("Entries", "Entries held by each cache.", "short", (f"sum by (pipeline, step) (messina_cache_entries{{{STEP}}})", "{{pipeline}} {{step}}")),
        ],
    ),
    (
        "Published and committed",
        [
            graph("Delivery, p50 to p99", "Time from handing a record to the producer until the brokers acknowledged it.", "s", *quantiles("messina_delivery_seconds", "pipeline"), log=True),
            graph("Commits", "Commits acknowledged by the brokers, and commits that failed.", "cps", (f"sum by (pipeline) ({rate('messina_commits_total')})", "{{pipeline}}"), (f"sum by (pipeline) ({rate('messina_commit_failures_total')})", "{{pipeline}} failed")),
            graph("Transactions", "Transactions committed and aborted. Only under exactly_once.", "cps", (f"sum by (pipeline, outcome) ({rate('messina_transactions_total')})", "{{pipeline}} {{outcome}}")),
            graph("Transaction commit, p50 to p99", "Time to commit a transaction, from sending the offsets until the brokers' acknowledgement. Only under exactly_once.", "s", *quantiles("messina_transaction_commit_seconds", "pipeline"), log=True),
        ],
    ),
    (
        "Backpressure",
        [
            graph("Bytes in flight", "Bytes of the records admitted and not yet finished, plus 8 KiB for each task at work on them, and 64 for each finished record that waits in its partition behind an unfinished one.", "bytes", (f"sum by (pipeline) (messina_in_flight_bytes{{{PIPELINE}}})", "{{pipeline}}"), width=8),
            graph("Pauses", "Partitions paused now, and pauses per second. Partitions are paused if intake has stopped for two seconds, if records wait for their schema, or when the consumer ends.", "short", (f"sum by (pipeline) (messina_paused_partitions{{{PIPELINE}}})", "{{pipeline}} paused now"), (f"sum by (pipeline) ({rate('messina_pauses_total')})", "{{pipeline}} pauses/s"), width=8),
            graph("Budget by part", "Bytes of the memory budget in use, by part.", "bytes", (f"sum by (part) (messina_budget_used_bytes{{{PROCESS}}})", "{{part}}"), stacked=True, width=8),
        ],
    ),
)
