"""What Messina asks: database, references, schema registry; and whether it dares to ask."""

from panels import PIPELINE, PROCESS, board, filled, graph, heat, number, quantiles, rate

DASHBOARD = filled(
    board("stores", "Stores", "Database, references in memory, and schema registry: their times, their failures, their breakers.", ("pipeline",)),
    (
        "Breakers",
        [
            graph("Breakers", "0 closed, 1 half-open (open, and a probe is out), 2 open.", "short", (f"max by (dependency) (messina_breaker_state{{{PROCESS}}})", "{{dependency}}"), top=2, thresholds=[(1, "red")]),
            graph("Breakers opened", "Times that a breaker opened, a second.", "cps", (f"sum by (dependency) ({rate('messina_breaker_opens_total', PROCESS)})", "{{dependency}}")),
        ],
    ),
    (
        "Database",
        [
            graph("Requests", "Requests answered, by step.", "cps", (f"sum by (pipeline, step) ({rate('messina_step_seconds_count')})", "{{pipeline}} {{step}}"), width=8),
            graph("Failures", "Failed attempts, by step and class.", "cps", (f"sum by (pipeline, step, class) ({rate('messina_failures_total')})", "{{pipeline}} {{step}} {{class}}"), width=8),
            graph("Waiting", "Events at a step: waiting for the answer, the next attempt or the breaker.", "short", (f"sum by (pipeline, step) (messina_step_in_flight{{{PIPELINE}}})", "{{pipeline}} {{step}}"), stacked=True, width=8),
            graph("Nodes", "Nodes of the database that requests may go to, and those of them that are connected, over all sessions of a process.", "short", (f"max by (instance) (messina_cql_nodes{{{PROCESS}}})", "{{instance}} nodes"), (f"min by (instance) (messina_cql_nodes_connected{{{PROCESS}}})", "{{instance}} connected")),
            graph("Requests repeated", "Failed requests that the driver sent again by itself, most to another node. Those that Messina tries again are among the failures.", "cps", (f"sum by (instance) ({rate('messina_cql_retries_total', PROCESS)})", "{{instance}}")),
            graph("Latency, p50 to p99", "Over all steps of a pipeline. Answers from caches are not in it.", "s", *quantiles("messina_step_seconds", "pipeline"), log=True),
            heat("Latency, all of it", "How many requests took how long.", "messina_step_seconds"),
        ],
    ),
    (
        "References",
        [
            number("Oldest reference", "Time since the copy in memory was last known to be what the server has.", "s", f"max(messina_reference_age_seconds{{{PROCESS}}})", "green", (900, "yellow"), (3600, "red"), width=6),
            number("Documents that do not fit", "Documents whose fields are not of the declared types. Records that need them fail.", "short", f"sum(messina_reference_unfit{{{PROCESS}}})", "green", (1, "red"), width=6),
            number("Documents", "Documents held by all references.", "short", f"sum(messina_reference_entries{{{PROCESS}}})", width=6),
            number("Bytes", "Bytes held by all references.", "bytes", f"sum(messina_reference_bytes{{{PROCESS}}})", width=6),
            graph("Age", "Time since the copy in memory was last known to be what the server has.", "s", (f"max by (reference) (messina_reference_age_seconds{{{PROCESS}}})", "{{reference}}"), thresholds=[(3600, "red")]),
            graph("Refreshes", "Readings of the whole collection, by outcome, and changes told by a change stream.", "cps", (f"sum by (reference, outcome) ({rate('messina_reference_refreshes_total', PROCESS)})", "{{reference}} {{outcome}}"), (f"sum by (reference) ({rate('messina_reference_changes_total', PROCESS)})", "{{reference}} changes")),
            graph("Refresh time, p50 to p99", "Time that reading the whole collection took.", "s", *quantiles("messina_reference_refresh_seconds", "reference", PROCESS)),
            graph("Asked on demand", "Look-ups of references that are asked for each document: answered by the cache, or by the server, or joined to the same question; and entries given up for room.", "cps", (f"sum by (reference, outcome) ({rate('messina_reference_cache_total', PROCESS)})", "{{reference}} {{outcome}}"), (f"sum by (reference) ({rate('messina_reference_cache_evictions_total', PROCESS)})", "{{reference}} evicted")),
            graph("Look-ups", "Look-ups in references, by outcome.", "cps", (f"sum by (pipeline, step, outcome) ({rate('messina_reference_lookups_total')})", "{{pipeline}} {{step}} {{outcome}}")),
        ],
    ),
    (
        "Schema registry",
        [
            graph("Requests", "Requests by outcome. A schema is asked for once; many requests are a sign of failures.", "cps", (f"sum by (outcome) ({rate('messina_registry_requests_total', PROCESS)})", "{{outcome}}")),
            graph("Schemas", "Schemas held, by process.", "short", (f"messina_registry_schemas{{{PROCESS}}}", "{{instance}}")),
        ],
    ),
)
