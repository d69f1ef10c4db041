"""The process: CPU, memory, versions, certificates, Tokio."""

from panels import PROCESS, RATE, board, filled, graph, number, rate, rows


def versioned(metric):
    """With version and revision as labels: a table merges rows only if all their labels are equal."""
    return f"max by (instance, version, revision) ({metric}{{{PROCESS}}} * on (namespace, job, instance) group_left (version, revision) messina_build_info{{{PROCESS}}})"


DASHBOARD = filled(
    board("runtime", "Runtime", "The process itself: CPU, memory, file descriptors, certificates, and the Tokio runtimes that run its tasks.", ()),
    (
        "Processes",
        [
            number("CPU", "Cores used by all processes.", "short", f"sum({rate('messina_process_cpu_seconds_total', PROCESS)})", width=8),
            number("Memory", "Resident memory of the largest process.", "bytes", f"max(messina_process_resident_memory_bytes{{{PROCESS}}})", width=8),
            number("Budget", "Share of [limits] memory in use, of the process that uses most. Caches and references count, and keep what they have grown to.", "percentunit", f"max(sum by (instance) (messina_budget_used_bytes{{{PROCESS}}}) / sum by (instance) (messina_budget_limit_bytes{{{PROCESS}}}))", width=8),
            rows("Versions", "Version, revision, uptime and configuration of each process. Last reload: 1 if it was taken or changed nothing, 0 if it was rejected.", "short", (versioned("messina_build_info"), "up"), (versioned("messina_config_generation"), "configuration"), (versioned("messina_config_last_reload_successful"), "last reload"), (f"time() - {versioned('messina_process_start_time_seconds')}", "uptime, s"), width=24, height=6),
        ],
    ),
    (
        "CPU and memory",
        [
            graph("CPU", "Cores used by each process.", "short", (rate("messina_process_cpu_seconds_total", PROCESS), "{{instance}}"), width=8),
            graph("Memory", "Resident memory, its peak so far, and what the allocator has committed, including what it gave back since.", "bytes", (f"messina_process_resident_memory_bytes{{{PROCESS}}}", "{{instance}}"), (f"messina_process_peak_resident_memory_bytes{{{PROCESS}}}", "{{instance}} peak"), (f"messina_allocator_committed_bytes{{{PROCESS}}}", "{{instance}} allocator"), width=8),
            graph("Budget", "Bytes of the memory budget in use, by part, and the limit.", "bytes", (f"sum by (part) (messina_budget_used_bytes{{{PROCESS}}})", "{{part}}"), (f"sum(messina_budget_limit_bytes{{{PROCESS}}})", "limit"), width=8),
            graph("File descriptors", "Open file descriptors, and the limit.", "short", (f"messina_process_open_fds{{{PROCESS}}}", "{{instance}}"), (f"messina_process_max_fds{{{PROCESS}}}", "{{instance}} limit"), log=True, width=4),
            graph("Memory returned", "Bytes per second that the allocator gives back to the system.", "Bps", (rate("messina_allocator_purged_bytes_total", PROCESS), "{{instance}}"), width=4),
            graph("Reloads", "Configurations offered by SIGHUP or --watch, by outcome: taken, unchanged or rejected. After a rejected one, the previous one still runs.", "cps", (f"sum by (outcome) ({rate('messina_config_reloads_total', PROCESS)})", "{{outcome}}"), width=4),
            graph("Threads", "Threads of the process.", "short", (f"messina_process_threads{{{PROCESS}}}", "{{instance}}"), width=4),
            graph("Events for Sentry", "Events for Sentry, by outcome: sent, suppressed (too many of one kind), dropped (the queue was full) or failed (Sentry did not accept them).", "cps", (f"sum by (outcome) ({rate('messina_sentry_events_total', PROCESS)})", "{{outcome}}"), width=4),
            graph("Spans", "Spans for the collector, by outcome: exported, suppressed (over max_spans_per_second), dropped (the queue was full) or failed (the collector did not accept them).", "cps", (f"sum by (outcome) ({rate('messina_trace_spans_total', PROCESS)})", "{{outcome}}"), width=4),
        ],
    ),
    (
        "Certificates",
        [
            graph("Time to expiry", "Time until the certificates of a file expire: the earliest of a chain, the latest of several authorities.", "s", (f"min by (file) (messina_certificate_expiry_timestamp_seconds{{{PROCESS}}}) - time()", "{{file}}"), thresholds=[(3 * 86400, "red"), (14 * 86400, "orange")], width=24),
        ],
    ),
    (
        "Tokio",
        [
            graph("Busy", "Share of their time that a runtime's workers are busy. A consumer loop near 100 % is limited by its CPU: add consumers or processes.", "percentunit", (f"rate(messina_runtime_busy_seconds_total{{{PROCESS}}}[{RATE}]) / messina_runtime_workers{{{PROCESS}}}", "{{instance}} {{runtime}}"), top=1, thresholds=[(0.9, "orange")], width=8),
            graph("Tasks", "Tasks that are alive.", "short", (f"sum by (runtime) (messina_runtime_tasks{{{PROCESS}}})", "{{runtime}}"), width=8),
            graph("Queue", "Tasks waiting in the runtime's global queue.", "short", (f"sum by (runtime) (messina_runtime_queue_depth{{{PROCESS}}})", "{{runtime}}"), width=8),
        ],
    ),
)
