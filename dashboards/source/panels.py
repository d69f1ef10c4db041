"""What all dashboards share: panels, variables, links.

A panel is one call: title, description, unit, and queries as (expression, legend). Everything that makes panels look and behave alike is only
here: widths in a grid of 24, the table of figures under a graph, `$__rate_interval`, colours of thresholds, how a quantile is
computed. Times are in seconds and sizes in bytes, like the metrics.
"""

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common as c
from grafana_foundation_sdk.models import dashboard as d
from grafana_foundation_sdk.models import heatmap as h
from grafana_foundation_sdk.models import prometheus as p

DATASOURCE = d.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "messina"
# The processes that are shown; PIPELINE also says which pipelines. "All" namespaces is `.*`, which takes series without that label too.
PROCESS = 'namespace=~"$namespace", job=~"$job", instance=~"$instance"'
PIPELINE = PROCESS + ', pipeline=~"$pipeline"'
RATE = "$__rate_interval"


def rate(metric, selector=PIPELINE, more=""):
    """Occurrences per second."""
    return f"rate({metric}{{{selector}{more}}}[{RATE}])"


def quantile(q, metric, by="pipeline", selector=PIPELINE, more=""):
    """A quantile of a histogram over all processes: buckets are added up first, because quantiles cannot be added."""
    labels = "le" + (f", {by}" if by else "")
    return f"histogram_quantile({q}, sum by ({labels}) ({rate(metric + '_bucket', selector, more)}))"


def quantiles(metric, by="", selector=PIPELINE, more=""):
    """p50, p95 and p99 as queries, with the labels of `by` in their legends."""
    name = "".join(f"{{{{{label.strip()}}}}} " for label in by.split(",") if label)
    return [(quantile(q, metric, by, selector, more), f"{name}p{int(q * 100)}") for q in (0.5, 0.95, 0.99)]


def _query(expression, legend, number, **kind):
    query = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + number))
    query = query.instant() if kind.get("instant") else query.range()
    return query.format(kind.get("format", p.PromQueryFormat.TIME_SERIES)).editor_mode(p.QueryEditorMode.CODE)


def _steps(*steps):
    """Thresholds: the first colour, then (value, colour)."""
    first, *others = steps
    return (
        dashboard.ThresholdsConfig()
        .mode(d.ThresholdsMode.ABSOLUTE)
        .steps([d.Threshold(value=None, color=first)] + [d.Threshold(value=v, color=colour) for v, colour in others])
    )


def _common(panel, title, description, unit, queries, width, height, **kind):
    panel = panel.title(title).description(description).unit(unit).datasource(DATASOURCE).span(width).height(height)
    for number, (expression, legend) in enumerate(queries):
        panel = panel.with_target(_query(expression, legend, number, **kind))
    return panel


def graph(title, description, unit, *queries, width=12, height=8, stacked=False, thresholds=None, top=None, log=False):
    """A graph over time. `thresholds` are drawn as lines: [(value, colour)]."""
    panel = _common(timeseries.Panel(), title, description, unit, queries, width, height)
    panel = (
        panel.min(0)
        .line_width(1)
        .fill_opacity(25 if stacked else 0)
        .show_points(c.VisibilityMode.NEVER)
        .thresholds(_steps("green", *(thresholds or [])))
        .legend(
            common.VizLegendOptions()
            .display_mode(c.LegendDisplayMode.TABLE)
            # To the right of a wide graph, because below it the legend would take half of the height.
            .placement(c.LegendPlacement.RIGHT if width >= 12 else c.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common.VizTooltipOptions().mode(c.TooltipDisplayMode.MULTI).sort(c.SortOrder.DESCENDING))
    )
    if thresholds:
        panel = panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(c.GraphThresholdsStyleMode.DASHED))
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(c.StackingMode.NORMAL))
    if top is not None:
        panel = panel.max(top)
    if log:
        # A logarithmic axis cannot show 0.
        panel = panel.min(None).scale_distribution(common.ScaleDistributionConfig().type(c.ScaleDistribution.LOG).log(10))
    return panel


def number(title, description, unit, expression, *steps, width=4, height=4, calc="lastNotNull"):
    """One figure, coloured by thresholds: the colour from the beginning, then (value, colour)."""
    panel = _common(stat.Panel(), title, description, unit, [(expression, "")], width, height)
    return (
        panel.thresholds(_steps(*(steps or ("green",))))
        .color_mode(c.BigValueColorMode.VALUE)
        .graph_mode(c.BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs([calc]))
    )


def heat(title, description, metric, more="", width=12, height=8, selector=PIPELINE):
    """A histogram's buckets over time: they show where most values are, which no quantile does."""
    queries = [(f"sum by (le) ({rate(metric + '_bucket', selector, more)})", "{{le}}")]
    panel = _common(heatmap.Panel(), title, description, "s", queries, width, height, format=p.PromQueryFormat.HEATMAP)
    return (
        panel.calculate(False)
        .y_axis(heatmap.YAxisConfig().unit("s"))
        .color(heatmap.HeatmapColorOptions().mode(h.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64).exponent(0.5).scale(h.HeatmapColorScale.EXPONENTIAL))
        .cell_gap(1)
        .mode(c.TooltipDisplayMode.SINGLE)
        .show_y_histogram()
    )


def rows(title, description, unit, *queries, width=12, height=8):
    """A table of current values: one line for each set of labels, one column for each query."""
    panel = _common(table.Panel(), title, description, unit, queries, width, height, instant=True, format=p.PromQueryFormat.TABLE)
    names = {f"Value #{chr(ord('A') + n)}": legend for n, (_, legend) in enumerate(queries)}
    names["Value"] = queries[0][1]
    hidden = {name: True for name in ("Time", "__name__")}
    return panel.with_transformation(d.DataTransformerConfig(id_val="merge", options={})).with_transformation(
        d.DataTransformerConfig(id_val="organize", options={"excludeByName": hidden, "renameByName": names})
    )


def _variable(name, label, query, several=True):
    variable = (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query({"query": query, "refId": f"variable-{name}"})
        .refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(d.VariableSort.ALPHABETICAL_ASC)
    )
    if several:
        variable = variable.multi(True).include_all(True).all_value(".*").current(
            d.VariableOption(text="All", value="$__all", selected=True)
        )
    return variable


def board(uid, title, description, variables=("pipeline",), hours=1):
    """A dashboard without panels. `variables`: pipeline and step, in addition to those of the process."""
    made = (
        dashboard.Dashboard(f"Messina / {title}")
        .uid(f"messina-{uid}")
        .description(description)
        .tags([TAG])
        .timezone("browser")
        .refresh("30s")
        .time(f"now-{hours}h", "now")
        .tooltip(d.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("namespace", "Namespace", "label_values(messina_build_info, namespace)"))
        .with_variable(_variable("job", "Job", 'label_values(messina_build_info{namespace=~"$namespace"}, job)'))
        .with_variable(_variable("instance", "Process", 'label_values(messina_build_info{namespace=~"$namespace", job=~"$job"}, instance)'))
        .link(
            dashboard.DashboardLink("Messina")
            .type(d.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
        .annotation(
            dashboard.AnnotationQuery()
            .name("Starts and new versions")
            .datasource(DATASOURCE)
            .enable(True)
            .icon_color("blue")
            # A new process has no earlier value that could change, so `changes` would miss it. A minute more than a step catches each start once, whatever
            # the phase of the scrapes.
            .expr(f'time() - messina_process_start_time_seconds{{{PROCESS}}} < $__interval_ms / 1000 + 60')
        )
    )
    if "pipeline" in variables:
        made = made.with_variable(
            _variable("pipeline", "Pipeline", 'label_values(messina_received_total{namespace=~"$namespace", job=~"$job"}, pipeline)')
        )
    if "step" in variables:
        made = made.with_variable(
            _variable("step", "Step", 'label_values(messina_step_in_flight{namespace=~"$namespace", job=~"$job", pipeline=~"$pipeline"}, step)')
        )
    return made


def filled(made, *sections):
    """Adds sections: (title, panels). A panel is placed beside the last one if the line has room."""
    for title, panels in sections:
        made = made.with_row(dashboard.Row(title))
        for panel in panels:
            made = made.with_panel(panel)
    return made
