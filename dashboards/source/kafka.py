"""The group, the partitions, and librdkafka's own figures."""

from panels import PIPELINE, RATE, board, filled, graph, number, rate, rows

# A position is 0 as long as none is known: the jump from there to the first record's is no rate.
RATE_OF_POSITION = f"deriv(messina_position{{{PIPELINE}}}[{RATE}]) and min_over_time(messina_position{{{PIPELINE}}}[{RATE}]) > 0"

DASHBOARD = filled(
    board("kafka", "Kafka", "Assignment, positions and rebalances of the group, and what the Kafka client says of itself."),
    (
        "Group",
        [
            number("Assigned partitions", "Partitions assigned, over all processes shown. It is the number of partitions of the topics, or some are nobody's.", "short", f"sum(messina_assigned_partitions{{{PIPELINE}}})", "red", (1, "green"), width=6),
            number("Stalled partitions", "Partitions with lag that make no progress.", "short", f"sum(messina_stalled_partitions{{{PIPELINE}}})", "green", (1, "red"), width=6),
            number("Consumers made anew", "Consumers that stood still and were made anew, in the time shown.", "short", f"sum(increase(messina_consumer_rebuilds_total{{{PIPELINE}}}[$__range]))", "green", (1, "red"), width=6),
            number("Brokers up", "Fewest connections that are up, over all clients.", "short", f"min(messina_kafka_brokers_up{{{PIPELINE}}})", "red", (1, "green"), width=6),
            graph("Assigned partitions", "By process. They move at a rebalance.", "short", (f"sum by (pipeline, instance) (messina_assigned_partitions{{{PIPELINE}}})", "{{pipeline}} {{instance}}"), stacked=True, width=8),
            graph("Rebalances", "By kind: assigned, revoked, lost (work may be repeated).", "cps", (f"sum by (pipeline, kind) ({rate('messina_rebalances_total')})", "{{pipeline}} {{kind}}"), width=8),
            graph("Stalled partitions", "Partitions with lag that make no progress.", "short", (f"sum by (pipeline) (messina_stalled_partitions{{{PIPELINE}}})", "{{pipeline}}"), thresholds=[(1, "red")], width=8),
        ],
    ),
    (
        "Partitions",
        [
            graph("Lag by partition", "Records from the first unfinished one to the end, the ten worst.", "short", (f"topk(10, messina_lag_records{{{PIPELINE}}})", "{{pipeline}} {{topic}}/{{partition}}")),
            graph("Rate by partition", "Records taken a second. Equal partitions have equal rates: one that stands out is skewed.", "cps", (f"sum by (pipeline, topic, partition) ({RATE_OF_POSITION})", "{{pipeline}} {{topic}}/{{partition}}")),
            rows("Positions", "Next record to take, offset committed, and lag, now.", "short", *((f"max by (instance, pipeline, topic, partition) ({metric}{{{PIPELINE}}})", title) for metric, title in (("messina_position", "position"), ("messina_committed_offset", "committed"), ("messina_lag_records", "lag"))), width=24),
        ],
    ),
    (
        "Client",
        [
            graph("Fetch queue", "Records fetched and not yet taken.", "short", (f"sum by (pipeline, client) (messina_kafka_fetch_queue_records{{{PIPELINE}}})", "{{pipeline}} {{client}}"), width=8),
            graph("Fetch queue, bytes", "Bytes fetched and not yet taken.", "bytes", (f"sum by (pipeline, client) (messina_kafka_fetch_queue_bytes{{{PIPELINE}}})", "{{pipeline}} {{client}}"), width=8),
            graph("Producer queue", "Records handed over and not yet acknowledged.", "short", (f"sum by (pipeline, client) (messina_kafka_producer_queue_records{{{PIPELINE}}})", "{{pipeline}} {{client}}"), width=8),
            graph("Producer queue, bytes", "Bytes handed over and not yet acknowledged.", "bytes", (f"sum by (pipeline, client) (messina_kafka_producer_queue_bytes{{{PIPELINE}}})", "{{pipeline}} {{client}}"), width=8),
            graph("Traffic", "Bytes received and sent.", "Bps", (f"sum by (pipeline) ({rate('messina_kafka_received_bytes_total')})", "{{pipeline}} received"), (f"sum by (pipeline) ({rate('messina_kafka_transmitted_bytes_total')})", "{{pipeline}} sent"), width=8),
            graph("Requests", "Requests sent, and those that failed or timed out.", "cps", (f"sum by (pipeline) ({rate('messina_kafka_requests_total')})", "{{pipeline}}"), (f"sum by (pipeline) ({rate('messina_kafka_request_failures_total')})", "{{pipeline}} failed"), width=8),
            graph("Round trip", "Mean and 99th percentile of the round trip to a broker, of the client's last interval.", "s", (f"max by (broker) (messina_kafka_broker_rtt_mean_seconds{{{PIPELINE}}})", "{{broker}} mean"), (f"max by (broker) (messina_kafka_broker_rtt_p99_seconds{{{PIPELINE}}})", "{{broker}} p99"), log=True),
            graph("Connections", "Connections that are up, and those that were lost a second.", "short", (f"sum by (pipeline, client) (messina_kafka_brokers_up{{{PIPELINE}}})", "{{pipeline}} {{client}} up"), (f"sum by (pipeline) ({rate('messina_kafka_disconnects_total')})", "{{pipeline}} lost a second")),
        ],
    ),
)
