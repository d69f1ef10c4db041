"""What Messina depends on: database, references and schema registry, and their circuit breakers."""

from panels import PIPELINE, PROCESS, board, filled, graph, heat, number, quantiles, rate

DASHBOARD = filled(
    board("stores", "Stores", "Database, references and schema registry: latency, failures, circuit breakers.", ("pipeline",)),
    (
        "Breakers",
        [
            graph("Breakers", "State of each dependency's circuit breaker: 0 closed, 1 half-open (a probe is out), 2 open.", "short", (f"max by (dependency) (messina_breaker_state{{{PROCESS}}})", "{{dependency}}"), top=2, thresholds=[(1, "red")]),
            graph("Breakers opened", "Times per second that a circuit breaker opened.", "cps", (f"sum by (dependency) ({rate('messina_breaker_opens_total', PROCESS)})", "{{dependency}}")),
        ],
    ),
    (
        "Database",
        [
            graph("Requests", "Requests that the store answered, by step.", "cps", (f"sum by (pipeline, step) ({rate('messina_step_seconds_count')})", "{{pipeline}} {{step}}"), width=8),
            graph("Failures", "Failed attempts, by step and class.", "cps", (f"sum by (pipeline, step, class) ({rate('messina_failures_total')})", "{{pipeline}} {{step}} {{class}}"), width=8),
            graph("Waiting", "Events at a step that asks the store: waiting for its answer, for the next attempt or for the breaker.", "short", (f"sum by (pipeline, step) (messina_step_in_flight{{{PIPELINE}}})", "{{pipeline}} {{step}}"), stacked=True, width=8),
            graph("Nodes", "Database nodes that requests may go to, and how many of them the driver is connected to: the fewest of a process's sessions.", "short", (f"max by (instance) (messina_cql_nodes{{{PROCESS}}})", "{{instance}} nodes"), (f"min by (instance) (messina_cql_nodes_connected{{{PROCESS}}})", "{{instance}} connected")),
            graph("Driver retries", "Failed requests that the driver itself retried, mostly on another node. What Messina retries counts as a failure.", "cps", (f"sum by (instance) ({rate('messina_cql_retries_total', PROCESS)})", "{{instance}}")),
            graph("Latency, p50 to p99", "Latency of all steps of a pipeline. Cache hits do not count.", "s", *quantiles("messina_step_seconds", "pipeline"), log=True),
            heat("Latency, distribution", "How many requests took how long.", "messina_step_seconds"),
        ],
    ),
    (
        "References",
        [
            number("Oldest reference", "Time since the copy in memory was last confirmed to be what the server has, of the oldest reference.", "s", f"max(messina_reference_age_seconds{{{PROCESS}}})", "green", (900, "yellow"), (3600, "red"), width=6),
            number("Documents of wrong types", "Documents whose fields do not have the declared or sampled types. Records that need them fail.", "short", f"sum(messina_reference_unfit{{{PROCESS}}})", "green", (1, "red"), width=6),
            number("Documents", "Documents of all references in memory.", "short", f"sum(messina_reference_entries{{{PROCESS}}})", width=6),
            number("Bytes", "Bytes held by all references.", "bytes", f"sum(messina_reference_bytes{{{PROCESS}}})", width=6),
            graph("Age", "Time since the copy in memory was last confirmed to be what the server has.", "s", (f"max by (reference) (messina_reference_age_seconds{{{PROCESS}}})", "{{reference}}"), thresholds=[(3600, "red")]),
            graph("Refreshes", "Reads of a whole collection, by outcome, and changes received from a change stream.", "cps", (f"sum by (reference, outcome) ({rate('messina_reference_refreshes_total', PROCESS)})", "{{reference}} {{outcome}}"), (f"sum by (reference) ({rate('messina_reference_changes_total', PROCESS)})", "{{reference}} changes")),
            graph("Refresh time, p50 to p99", "Time to read a whole collection.", "s", *quantiles("messina_reference_refresh_seconds", "reference", PROCESS)),
            graph("On-demand look-ups", "Look-ups in references with mode = \"on_demand\": hit (the cache answered), miss (a request) or coalesced (another's request); and documents evicted for room.", "cps", (f"sum by (reference, outcome) ({rate('messina_reference_cache_total', PROCESS)})", "{{reference}} {{outcome}}"), (f"sum by (reference) ({rate('messina_reference_cache_evictions_total', PROCESS)})", "{{reference}} evicted")),
            graph("Look-ups", "Look-ups in references, by outcome: found or missing.", "cps", (f"sum by (pipeline, step, outcome) ({rate('messina_reference_lookups_total')})", "{{pipeline}} {{step}} {{outcome}}")),
        ],
    ),
    (
        "Schema registry",
        [
            graph("Requests", "Requests to the schema registry, by outcome. Each schema is requested once, so many requests are a sign of failures.", "cps", (f"sum by (outcome) ({rate('messina_registry_requests_total', PROCESS)})", "{{outcome}}")),
            graph("Schemas", "Schemas in memory, by process.", "short", (f"messina_registry_schemas{{{PROCESS}}}", "{{instance}}")),
        ],
    ),
)
