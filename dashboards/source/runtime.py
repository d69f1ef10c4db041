"""The process: CPU, memory, Tokio, and what it says of itself."""

from panels import PROCESS, RATE, board, filled, graph, number, rate, rows


def versioned(metric):
    """With version and revision as labels: rows of a table are one row only where all labels are the same."""
    return f"max by (instance, version, revision) ({metric}{{{PROCESS}}} * on (namespace, job, instance) group_left (version, revision) messina_build_info{{{PROCESS}}})"


DASHBOARD = filled(
    board("runtime", "Runtime", "The process itself: CPU, memory, descriptors, and the runtimes that run its tasks.", ()),
    (
        "Processes",
        [
            number("CPU", "Cores in use, all processes.", "short", f"sum({rate('messina_process_cpu_seconds_total', PROCESS)})", width=8),
            number("Memory", "Resident memory of the largest process.", "bytes", f"max(messina_process_resident_memory_bytes{{{PROCESS}}})", width=8),
            number("Budget", "Share of [limits] memory in use, of the process that uses most. Caches and references count, and keep what they have grown to.", "percentunit", f"max(sum by (instance) (messina_budget_used_bytes{{{PROCESS}}}) / sum by (instance) (messina_budget_limit_bytes{{{PROCESS}}}))", width=8),
            rows("Versions", "What runs where, since when, and the generation of its configuration.", "short", (versioned("messina_build_info"), "up"), (versioned("messina_config_generation"), "configuration"), (versioned("messina_config_last_reload_successful"), "files say what runs"), (f"time() - {versioned('messina_process_start_time_seconds')}", "uptime, s"), width=24, height=6),
        ],
    ),
    (
        "CPU and memory",
        [
            graph("CPU", "Cores in use by each process.", "short", (rate("messina_process_cpu_seconds_total", PROCESS), "{{instance}}"), width=8),
            graph("Memory", "Resident now, and the highest so far; and what the allocator has made usable, what it gave back since included.", "bytes", (f"messina_process_resident_memory_bytes{{{PROCESS}}}", "{{instance}}"), (f"messina_process_peak_resident_memory_bytes{{{PROCESS}}}", "{{instance}} peak"), (f"messina_allocator_committed_bytes{{{PROCESS}}}", "{{instance}} allocator"), width=8),
            graph("Budget", "Bytes in use by what holds them, and the limit.", "bytes", (f"sum by (part) (messina_budget_used_bytes{{{PROCESS}}})", "{{part}}"), (f"sum(messina_budget_limit_bytes{{{PROCESS}}})", "limit"), width=8),
            graph("File descriptors", "Open ones, and the limit.", "short", (f"messina_process_open_fds{{{PROCESS}}}", "{{instance}}"), (f"messina_process_max_fds{{{PROCESS}}}", "{{instance}} limit"), log=True, width=4),
            graph("Memory given back", "Memory that the allocator gives back to the system.", "Bps", (rate("messina_allocator_purged_bytes_total", PROCESS), "{{instance}}"), width=4),
            graph("Configurations offered", "At SIGHUP or by --watch: taken, unchanged, or rejected, which leaves the old one running.", "cps", (f"sum by (outcome) ({rate('messina_config_reloads_total', PROCESS)})", "{{outcome}}"), width=4),
            graph("Threads", "Threads of the process.", "short", (f"messina_process_threads{{{PROCESS}}}", "{{instance}}"), width=4),
            graph("Events for Sentry", "Sent, suppressed (too many of one kind), dropped (its queue was full), failed (Sentry did not take them).", "cps", (f"sum by (outcome) ({rate('messina_sentry_events_total', PROCESS)})", "{{outcome}}"), width=4),
            graph("Spans", "For the collector: exported, suppressed (over max_spans_per_second), dropped (its queue was full), failed (it did not take them).", "cps", (f"sum by (outcome) ({rate('messina_trace_spans_total', PROCESS)})", "{{outcome}}"), width=4),
        ],
    ),
    (
        "Certificates",
        [
            graph("Time left", "Until the certificates of a file run out: of a chain the first, of several authorities the last.", "s", (f"min by (file) (messina_certificate_expiry_timestamp_seconds{{{PROCESS}}}) - time()", "{{file}}"), thresholds=[(3 * 86400, "red"), (14 * 86400, "orange")], width=24),
        ],
    ),
    (
        "Tokio",
        [
            graph("Busy", "Share of the time that a runtime's workers work. A consumer loop near 100 % is bound by the CPU: add consumers or processes.", "percentunit", (f"rate(messina_runtime_busy_seconds_total{{{PROCESS}}}[{RATE}]) / messina_runtime_workers{{{PROCESS}}}", "{{instance}} {{runtime}}"), top=1, thresholds=[(0.9, "orange")], width=8),
            graph("Tasks", "Tasks that are alive.", "short", (f"sum by (runtime) (messina_runtime_tasks{{{PROCESS}}})", "{{runtime}}"), width=8),
            graph("Queue", "Tasks that wait for a worker, in the runtime's common queue.", "short", (f"sum by (runtime) (messina_runtime_queue_depth{{{PROCESS}}})", "{{runtime}}"), width=8),
        ],
    ),
)
