// Draws a dashboard with Grafana's own components from the answers of a Prometheus: what `dashboards/screenshots` gives to a browser.
//
// From @grafana/ui: PanelChrome, TimeSeries with its legend, BigValue, Table, and for heatmaps UPlotChart. The panel plugins around them are in
// Grafana's server and not on npm, so what they do is done here, as little as possible: answers become data frames, options become props, and the
// cells of a heatmap are painted into Grafana's chart.
import '@fontsource/inter/latin-400.css';
import '@fontsource/inter/latin-500.css';
import {
  type DataFrame,
  type Field,
  FieldType,
  createDataFrame,
  createTheme,
  dateTime,
  getDisplayProcessor,
  getMinMaxAndDelta,
  reduceField,
  standardTransformers,
  standardTransformersRegistry,
  transformDataFrame,
} from '@grafana/data';
import {
  AxisPlacement,
  BigValue,
  GlobalStyles,
  PanelChrome,
  ScaleDirection,
  ScaleDistribution,
  ScaleOrientation,
  Table,
  ThemeContext,
  TimeSeries,
  UPlotChart,
  UPlotConfigBuilder,
} from '@grafana/ui';
import { interpolateOranges } from 'd3-scale-chromatic';
import { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';

type Series = { metric: Record<string, string>; values?: [number, string][]; value?: [number, string] };
type Given = {
  dashboard: { title: string; description: string; panels: any[] };
  /** By panel's id and query's letter. */
  answers: Record<string, Record<string, Series[]>>;
  from: number;
  to: number;
  step: number;
};

const COLUMN = 60;
const ROW = 30;
const GAP = 8;
const theme = createTheme({ colors: { mode: 'light' } });
const timeZone = 'utc';

function legend(format: string, metric: Record<string, string>): string {
  return format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => metric[label] ?? '') || JSON.stringify(metric);
}

/** A field with the panel's settings, and what makes texts of its values. */
function finished(frames: DataFrame[], panel: any): DataFrame[] {
  const { custom, ...defaults } = panel.fieldConfig.defaults;
  let number = 0;
  for (const frame of frames) {
    for (const field of frame.fields) {
      if (field.type === FieldType.number) {
        field.config = { color: { mode: 'palette-classic' }, ...defaults, ...field.config, custom };
        field.state = { seriesIndex: number++ };
      }
      field.display = getDisplayProcessor({ field, theme, timeZone });
    }
  }
  return frames;
}

/** One frame for each series, on a common grid of times with gaps where there is no value. */
function overTime(panel: any, given: Given): DataFrame[] {
  const times: number[] = [];
  for (let time = given.from; time <= given.to; time += given.step) times.push(time * 1000);
  const frames = panel.targets.flatMap((target: any) =>
    (given.answers[panel.id]?.[target.refId] ?? []).map((series) => {
      const known = new Map(series.values!.map(([time, value]) => [Math.round(time * 1000), Number(value)]));
      const values = times.map((time) => known.get(time) ?? null).map((value) => (Number.isNaN(value) ? null : value));
      return createDataFrame({
        refId: target.refId,
        fields: [
          { name: 'Time', type: FieldType.time, values: times },
          {
            name: 'Value',
            type: FieldType.number,
            values,
            labels: series.metric,
            config: { displayNameFromDS: legend(target.legendFormat, series.metric) },
          },
        ],
      });
    })
  );
  return finished(frames, panel);
}

function Graph({ panel, given, width, height }: Drawn) {
  const frames = overTime(panel, given);
  if (frames.length === 0) return <Nothing />;
  const timeRange = range(given);
  return (
    <TimeSeries
      frames={frames}
      timeRange={timeRange}
      timeZone={timeZone}
      width={width}
      height={height}
      legend={panel.options.legend}
      options={panel.options}
    />
  );
}

function Figure({ panel, given, width, height }: Drawn) {
  const frames = overTime(panel, given);
  const field = frames[0]?.fields[1];
  if (!field) return <Nothing />;
  const { calcs } = panel.options.reduceOptions;
  const value = reduceField({ field, reducers: calcs })[calcs[0]];
  field.config.color = { mode: 'thresholds' };
  field.state = { range: getMinMaxAndDelta(field) };
  field.display = getDisplayProcessor({ field, theme, timeZone });
  return (
    <BigValue
      width={width}
      height={height}
      theme={theme}
      value={field.display(value)}
      colorMode={panel.options.colorMode}
      graphMode={panel.options.graphMode}
      sparkline={{ y: field as Field<number>, x: frames[0].fields[0] as Field<number>, timeRange: range(given) } as any}
    />
  );
}

function Rows({ panel, given, width, height }: Drawn) {
  const frames = panel.targets.map((target: any) => {
    const series = given.answers[panel.id]?.[target.refId] ?? [];
    const labels = [...new Set(series.flatMap(({ metric }) => Object.keys(metric)))].sort();
    return createDataFrame({
      refId: target.refId,
      fields: [
        { name: 'Time', type: FieldType.time, values: series.map(() => given.to * 1000) },
        ...labels.map((label) => ({ name: label, type: FieldType.string, values: series.map(({ metric }) => metric[label]) })),
        {
          name: panel.targets.length > 1 ? `Value #${target.refId}` : 'Value',
          type: FieldType.number,
          values: series.map(({ value }) => Number(value![1])),
        },
      ],
    });
  });
  const [rows, setRows] = useState<DataFrame>();
  useEffect(() => {
    const transforming = transformDataFrame(panel.transformations ?? [], frames).subscribe(([done]) => setRows(finished([done], panel)[0]));
    return () => transforming.unsubscribe();
  }, []);
  return rows?.length ? <Table data={rows} width={width} height={height} /> : <Nothing />;
}

function Heat({ panel, given, width, height }: Drawn) {
  const series = (given.answers[panel.id]?.A ?? [])
    .map(({ metric, values }) => ({ le: Number(metric.le === '+Inf' ? Infinity : metric.le), values: values! }))
    .sort((a, b) => a.le - b.le);
  const finite = series.filter(({ le }) => Number.isFinite(le));
  if (finite.length === 0) return <Nothing />;
  const times: number[] = [];
  for (let time = given.from; time <= given.to; time += given.step) times.push(time * 1000);
  const columns = finite.map(({ values }) => new Map(values.map(([time, value]) => [Math.round(time * 1000), Number(value)])));
  // Of a bucket alone: Prometheus' buckets hold all below them, too.
  const cells = times.map((time) => columns.map((column, n) => Math.max(0, (column.get(time) ?? 0) - (n > 0 ? columns[n - 1].get(time) ?? 0 : 0))));
  const most = Math.max(...cells.flat());
  const used = finite.map((_, n) => cells.some((column) => column[n] > 0));
  const first = Math.max(0, used.indexOf(true) - 1);
  const last = Math.min(finite.length - 1, used.lastIndexOf(true) + 1);
  const seconds: Field = { name: 'le', type: FieldType.number, values: [], config: { unit: panel.options.yAxis.unit } };
  const shown = getDisplayProcessor({ field: seconds, theme, timeZone });
  const words = (value: number) => {
    const { text, suffix } = shown(value);
    return text + (suffix ?? '');
  };
  const config = new UPlotConfigBuilder(timeZone);
  config.addScale({ scaleKey: 'x', isTime: true, orientation: ScaleOrientation.Horizontal, direction: ScaleDirection.Right, range: () => [given.from * 1000, given.to * 1000] });
  config.addScale({ scaleKey: 'y', isTime: false, orientation: ScaleOrientation.Vertical, direction: ScaleDirection.Up, distribution: ScaleDistribution.Linear, range: () => [first, last + 1] });
  config.addAxis({ scaleKey: 'x', isTime: true, placement: AxisPlacement.Bottom, timeZone, theme });
  const every = Math.ceil((last - first) / 8);
  const splits: number[] = [];
  for (let n = first; n <= last; n += every) splits.push(n + 1);
  config.addAxis({
    scaleKey: 'y',
    placement: AxisPlacement.Left,
    theme,
    size: 70,
    splits: () => splits,
    values: (_: unknown, at: number[]) => at.map((n) => words(finite[n - 1].le)),
  } as any);
  config.addSeries({ scaleKey: 'y', pathBuilder: () => null, theme, show: true } as any);
  config.addHook('draw', (u) => {
    const wide = Math.max(1, Math.abs(u.valToPos(given.step * 1000, 'x', true) - u.valToPos(0, 'x', true)) - 1);
    cells.forEach((column, at) => {
      column.forEach((value, n) => {
        if (value <= 0 || n < first || n > last) return;
        const x = u.valToPos(times[at], 'x', true);
        const top = u.valToPos(n + 1, 'y', true);
        const bottom = u.valToPos(n, 'y', true);
        u.ctx.fillStyle = interpolateOranges(Math.sqrt(value / most));
        u.ctx.fillRect(Math.max(x - wide, u.bbox.left), top + 1, wide, bottom - top - 1);
      });
    });
  });
  return <UPlotChart width={width} height={height} config={config} data={[times, times.map(() => null)] as any} />;
}

type Drawn = { panel: any; given: Given; width: number; height: number };
const KINDS: Record<string, (drawn: Drawn) => JSX.Element> = { timeseries: Graph, stat: Figure, table: Rows, heatmap: Heat };

function Nothing() {
  return <div style={{ color: theme.colors.text.secondary, textAlign: 'center', paddingTop: 24 }}>No data</div>;
}

function range(given: Given) {
  const [from, to] = [dateTime(given.from * 1000), dateTime(given.to * 1000)];
  return { from, to, raw: { from, to } };
}

function Dashboard({ given }: { given: Given }) {
  const panels = given.dashboard.panels;
  const bottom = Math.max(...panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  return (
    <div style={{ width: 24 * COLUMN, padding: GAP }}>
      <div style={{ font: `500 18px ${theme.typography.fontFamily}`, padding: '4px 0 2px' }}>{given.dashboard.title}</div>
      <div style={{ color: theme.colors.text.secondary, paddingBottom: 8 }}>{given.dashboard.description}</div>
      <div style={{ position: 'relative', height: bottom * ROW }}>
        {panels.map((panel) => {
          const { x, y, w, h } = panel.gridPos;
          const place = { position: 'absolute' as const, left: x * COLUMN, top: y * ROW };
          if (panel.type === 'row') {
            return (
              <div key={panel.id} style={{ ...place, fontWeight: 500, fontSize: 15, paddingTop: 6 }}>
                {panel.title}
              </div>
            );
          }
          const Kind = KINDS[panel.type];
          return (
            <div key={panel.id} style={place} data-panel={panel.title}>
              <PanelChrome title={panel.title} width={w * COLUMN - GAP} height={h * ROW - GAP}>
                {(width, height) => <Kind panel={panel} given={given} width={width} height={height} />}
              </PanelChrome>
            </div>
          );
        })}
      </div>
    </div>
  );
}

standardTransformersRegistry.setInit(() =>
  [standardTransformers.mergeTransformer, standardTransformers.organizeFieldsTransformer].map((transformation: any) => ({ id: transformation.id, name: transformation.name, transformation: () => Promise.resolve(transformation), editor: () => null }) as any)
);

declare global {
  interface Window {
    draw(given: Given): void;
  }
}
window.draw = (given) => {
  createRoot(document.getElementById('dashboard')!).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <Dashboard given={given} />
    </ThemeContext.Provider>
  );
};
