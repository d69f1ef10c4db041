"""One pipeline, stage by stage, in the order in which a record passes."""

from panels import PIPELINE, PROCESS, board, filled, graph, heat, quantile, quantiles, rate

STEP = PIPELINE + ', step=~"$step"'

DASHBOARD = filled(
    board("pipeline", "Pipeline", "A record's way: taken, decoded, looked up, written, published, committed. Each stage with its own time.", ("pipeline", "step")),
    (
        "Taken and ended",
        [
            graph("Records", "Taken from Kafka, published and acknowledged, and ended. They run apart where records wait.", "cps", (f"sum by (pipeline) ({rate('messina_received_total')})", "{{pipeline}} taken"), (f"sum by (pipeline) ({rate('messina_records_total')})", "{{pipeline}} ended"), (f"sum by (pipeline) ({rate('messina_published_total')})", "{{pipeline}} published"), width=8),
            graph("Bytes taken", "Keys and values taken from Kafka.", "Bps", (f"sum by (pipeline) ({rate('messina_record_bytes_total')})", "{{pipeline}}"), width=8),
            graph("Dead letters", "Records published to the dead-letter topic, by the class of the reason.", "cps", (f"sum by (pipeline, class) ({rate('messina_dead_letters_total')})", "{{pipeline}} {{class}}"), (f"max by (pipeline) (messina_dead_letter_stop{{{PIPELINE}}})", "{{pipeline}} stopped (1)"), width=8),
        ],
    ),
    (
        "On the CPU",
        [
            graph("Decode and encode, p50 and p99", "Time of the consumer loop for one record. These stages wait for nothing.", "s", (quantile(0.5, "messina_stage_seconds", "pipeline, stage"), "{{pipeline}} {{stage}} p50"), (quantile(0.99, "messina_stage_seconds", "pipeline, stage"), "{{pipeline}} {{stage}} p99"), log=True),
            heat("Decode", "How many records took how long to decode.", "messina_stage_seconds", ', stage="decode"'),
        ],
    ),
    (
        "Steps",
        [
            graph("Steps, p50 to p99", "Time of a request until its answer. Answers from the cache, and failures, are not in it.", "s", *quantiles("messina_step_seconds", "pipeline, step", STEP), log=True),
            heat("Steps", "How many requests took how long, of the steps chosen.", "messina_step_seconds", selector=STEP),
            graph("Concurrency load against store latency", "The share of max_in_flight that is used (left) and the store's p95 (right, seconds): when the store slows, the load takes it up, and the rate stays until the load reaches 100 %.", "percentunit", (f"max by (pipeline) (messina_concurrency_load_ratio{{{PIPELINE}}})", "{{pipeline}} load"), (quantile(0.95, "messina_step_seconds", "pipeline"), "{{pipeline}} store p95")).override_by_regexp(".*store p95", [{"id": "unit", "value": "s"}, {"id": "custom.axisPlacement", "value": "right"}]),
            graph("Events at a step", "Events that wait for a step's answer, for its next attempt or for a breaker.", "short", (f"sum by (pipeline, step) (messina_step_in_flight{{{STEP}}})", "{{pipeline}} {{step}}"), stacked=True),
            graph("Rows written", "Rows acknowledged by the store.", "cps", (f"sum by (pipeline, step) ({rate('messina_rows_written_total', STEP)})", "{{pipeline}} {{step}}"), width=6),
            graph("Rows a batch", "Rows that went together in one batch, of writes with `group`.", "short", (f"sum by (pipeline, step) ({rate('messina_grouped_rows_total', STEP)}) / sum by (pipeline, step) ({rate('messina_write_batches_total', STEP)})", "{{pipeline}} {{step}}"), width=6),
            graph("Retries", "Attempts that repeat a failed one.", "cps", (f"sum by (pipeline, step) ({rate('messina_retries_total', STEP)})", "{{pipeline}} {{step}}"), width=6),
            graph("Concurrency", "Events in the pipeline, the bound as it is, and the configured one. They differ under max_in_flight = \"auto\".", "short", (f"sum by (pipeline) (messina_in_flight_records{{{PIPELINE}}})", "{{pipeline}} in flight"), (f"sum by (pipeline) (messina_concurrency_limit{{{PIPELINE}}})", "{{pipeline}} bound"), (f"sum by (pipeline) (messina_max_in_flight{{{PIPELINE}}})", "{{pipeline}} max_in_flight"), width=6),
        ],
    ),
    (
        "Caches",
        [
            graph("Hit ratio", "Look-ups that the cache answered.", "percentunit", (f"sum by (pipeline, step) ({rate('messina_cache_hits_total', STEP)}) / (sum by (pipeline, step) ({rate('messina_cache_hits_total', STEP)}) + sum by (pipeline, step) ({rate('messina_cache_misses_total', STEP)}))", "{{pipeline}} {{step}}"), top=1, width=8),
            graph("Look-ups", "Answered by the cache, asked of the store, joined to the same question on its way, answered past their life.", "cps", (f"sum by (pipeline, step) ({rate('messina_cache_hits_total', STEP)})", "{{pipeline}} {{step}} hit"), (f"sum by (pipeline, step) ({rate('messina_cache_misses_total', STEP)})", "{{pipeline}} {{step}} miss"), (f"sum by (pipeline, step) ({rate('messina_cache_coalesced_total', STEP)})", "{{pipeline}} {{step}} coalesced"), (f"sum by (pipeline, step) ({rate('messina_cache_stale_total', STEP)})", "{{pipeline}} {{step}} stale"), width=8),
            graph("Evictions", "Entries given up before their time. Many: the cache is too small for its keys.", "cps", (f"sum by (pipeline, step) ({rate('messina_cache_evictions_total', STEP)})", "{{pipeline}} {{step}}"), width=8),
            graph("Bytes", "Bytes held by each cache.", "bytes", (f"sum by (pipeline, step) (messina_cache_bytes{{{STEP}}})", "{{pipeline}} {{step}}")),
            graph("Entries", "Entries held by each cache.", "short", (f"sum by (pipeline, step) (messina_cache_entries{{{STEP}}})", "{{pipeline}} {{step}}")),
        ],
    ),
    (
        "Published and committed",
        [
            graph("Delivery, p50 to p99", "From handing a record to the producer until the brokers acknowledged it.", "s", *quantiles("messina_delivery_seconds", "pipeline"), log=True),
            graph("Commits", "Commits acknowledged, and failed.", "cps", (f"sum by (pipeline) ({rate('messina_commits_total')})", "{{pipeline}}"), (f"sum by (pipeline) ({rate('messina_commit_failures_total')})", "{{pipeline}} failed")),
            graph("Transactions", "Transactions committed and aborted; under exactly_once alone.", "cps", (f"sum by (pipeline, outcome) ({rate('messina_transactions_total')})", "{{pipeline}} {{outcome}}")),
            graph("Transaction commit, p50 to p99", "From the offsets sent to the brokers' acknowledgement; under exactly_once alone.", "s", *quantiles("messina_transaction_commit_seconds", "pipeline"), log=True),
        ],
    ),
    (
        "Held back",
        [
            graph("Bytes in flight", "Bytes of the records admitted and not yet finished, 8 KiB for each task that works on some, and 64 for each finished one that waits in its partition behind one of them.", "bytes", (f"sum by (pipeline) (messina_in_flight_bytes{{{PIPELINE}}})", "{{pipeline}}"), width=8),
            graph("Pauses", "Partitions paused because intake has stood still for two seconds, or for a schema, and times that this happened.", "short", (f"sum by (pipeline) (messina_paused_partitions{{{PIPELINE}}})", "{{pipeline}} paused now"), (f"sum by (pipeline) ({rate('messina_pauses_total')})", "{{pipeline}} pauses a second"), width=8),
            graph("Budget by part", "Bytes of the budget in use, by what holds them.", "bytes", (f"sum by (part) (messina_budget_used_bytes{{{PROCESS}}})", "{{part}}"), stacked=True, width=8),
        ],
    ),
)
