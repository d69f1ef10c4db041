"""The group, the partitions, and librdkafka's own figures."""

from panels import PIPELINE, RATE, board, filled, graph, number, rate, rows

# A position is 0 while unknown: the jump from there to the first real offset is not a rate.
RATE_OF_POSITION = f"deriv(messina_position{{{PIPELINE}}}[{RATE}]) and min_over_time(messina_position{{{PIPELINE}}}[{RATE}]) > 0"

DASHBOARD = filled(
    board("kafka", "Kafka", "Assignment, positions and rebalances of the consumer group, and librdkafka's own metrics."),
    (
        "Group",
        [
            number("Assigned partitions", "Partitions assigned to all processes shown. If it is less than the topics have, nobody reads the others.", "short", f"sum(messina_assigned_partitions{{{PIPELINE}}})", "red", (1, "green"), width=6),
            number("Stalled partitions", "Partitions with lag that make no progress.", "short", f"sum(messina_stalled_partitions{{{PIPELINE}}})", "green", (1, "red"), width=6),
            number("Consumers rebuilt", "Consumers that were rebuilt in the time shown, because they stalled or had to continue from the last commit.", "short", f"sum(increase(messina_consumer_rebuilds_total{{{PIPELINE}}}[$__range]))", "green", (1, "red"), width=6),
            number("Brokers up", "Broker connections that are up, of the client that has fewest.", "short", f"min(messina_kafka_brokers_up{{{PIPELINE}}})", "red", (1, "green"), width=6),
            graph("Assigned partitions", "Partitions of each process. They move at a rebalance.", "short", (f"sum by (pipeline, instance) (messina_assigned_partitions{{{PIPELINE}}})", "{{pipeline}} {{instance}}"), stacked=True, width=8),
            graph("Rebalances", "Rebalances per second, by kind: assigned, revoked or lost (records may run again).", "cps", (f"sum by (pipeline, kind) ({rate('messina_rebalances_total')})", "{{pipeline}} {{kind}}"), width=8),
            graph("Stalled partitions", "Partitions with lag that make no progress.", "short", (f"sum by (pipeline) (messina_stalled_partitions{{{PIPELINE}}})", "{{pipeline}}"), thresholds=[(1, "red")], width=8),
        ],
    ),
    (
        "Partitions",
        [
            graph("Lag by partition", "Records from the first unfinished one to the end of the partition. The ten partitions with the most lag.", "short", (f"topk(10, messina_lag_records{{{PIPELINE}}})", "{{pipeline}} {{topic}}/{{partition}}")),
            graph("Rate by partition", "Records taken per second. If records are spread evenly, so are the rates: a line that stands out is a skewed partition.", "cps", (f"sum by (pipeline, topic, partition) ({RATE_OF_POSITION})", "{{pipeline}} {{topic}}/{{partition}}")),
            rows("Positions", "Current offset of the next record to take, committed offset, and lag.", "short", *((f"max by (instance, pipeline, topic, partition) ({metric}{{{PIPELINE}}})", title) for metric, title in (("messina_position", "position"), ("messina_committed_offset", "committed"), ("messina_lag_records", "lag"))), width=24),
        ],
    ),
    (
        "Client",
        [
            graph("Fetch queue", "Records fetched from the brokers and not yet taken.", "short", (f"sum by (pipeline, client) (messina_kafka_fetch_queue_records{{{PIPELINE}}})", "{{pipeline}} {{client}}"), width=8),
            graph("Fetch queue, bytes", "Bytes fetched from the brokers and not yet taken.", "bytes", (f"sum by (pipeline, client) (messina_kafka_fetch_queue_bytes{{{PIPELINE}}})", "{{pipeline}} {{client}}"), width=8),
            graph("Producer queue", "Records handed to the producer and not yet acknowledged.", "short", (f"sum by (pipeline, client) (messina_kafka_producer_queue_records{{{PIPELINE}}})", "{{pipeline}} {{client}}"), width=8),
            graph("Producer queue, bytes", "Bytes handed to the producer and not yet acknowledged.", "bytes", (f"sum by (pipeline, client) (messina_kafka_producer_queue_bytes{{{PIPELINE}}})", "{{pipeline}} {{client}}"), width=8),
            graph("Traffic", "Bytes received from the brokers and sent to them.", "Bps", (f"sum by (pipeline) ({rate('messina_kafka_received_bytes_total')})", "{{pipeline}} received"), (f"sum by (pipeline) ({rate('messina_kafka_transmitted_bytes_total')})", "{{pipeline}} sent"), width=8),
            graph("Requests", "Requests to the brokers, and those that could not be sent or timed out.", "cps", (f"sum by (pipeline) ({rate('messina_kafka_requests_total')})", "{{pipeline}}"), (f"sum by (pipeline) ({rate('messina_kafka_request_failures_total')})", "{{pipeline}} failed"), width=8),
            graph("Round trip", "Mean and 99th percentile of the round trip to a broker in the last statistics interval.", "s", (f"max by (broker) (messina_kafka_broker_rtt_mean_seconds{{{PIPELINE}}})", "{{broker}} mean"), (f"max by (broker) (messina_kafka_broker_rtt_p99_seconds{{{PIPELINE}}})", "{{broker}} p99"), log=True),
            graph("Connections", "Broker connections that are up, and connections lost per second.", "short", (f"sum by (pipeline, client) (messina_kafka_brokers_up{{{PIPELINE}}})", "{{pipeline}} {{client}} up"), (f"sum by (pipeline) ({rate('messina_kafka_disconnects_total')})", "{{pipeline}} lost/s")),
        ],
    ),
)
