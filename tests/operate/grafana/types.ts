// What a dashboard's JSON must be: Grafana's own types, with the values of enums in place of the enums, and each panel's options and
// fieldConfig.defaults.custom typed by its plugin instead of `Record<string, unknown>`.
import type { Dashboard, DataSourceRef, Panel, RowPanel } from '@grafana/schema';
import type * as heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

/** JSON has the values of string enums, and not the enums. */
type Plain<T> = T extends string
  ? `${T}`
  : T extends readonly (infer Item)[]
    ? Plain<Item>[]
    : T extends object
      ? { [K in keyof T]: Plain<T[K]> }
      : T;

interface Target {
  datasource?: DataSourceRef;
  editorMode: 'code';
  expr: string;
  format: 'time_series' | 'table' | 'heatmap';
  instant: boolean;
  range: boolean;
  legendFormat: string;
  refId: string;
}

type Of<Kind extends string, Options, Custom> = Omit<Plain<Panel>, 'type' | 'options' | 'fieldConfig' | 'targets' | 'title' | 'description'> & {
  type: Kind;
  title: string;
  description: string;
  options?: Partial<Plain<Options>>;
  targets: Target[];
  fieldConfig: {
    defaults: Omit<Plain<Panel['fieldConfig'] & {}>['defaults'], 'custom' | 'unit'> & { unit: string; custom?: Partial<Plain<Custom>> };
    overrides: Plain<Panel['fieldConfig'] & {}>['overrides'];
  };
};

type Annotation = Plain<NonNullable<NonNullable<Dashboard['annotations']>['list']>>[number] & { expr: string };

export type Checked = Omit<Plain<Dashboard>, 'panels' | 'annotations'> & {
  annotations: { list: Annotation[] };
  panels: (
    | Of<'timeseries', timeseries.Options, timeseries.FieldConfig>
    | Of<'stat', stat.Options, Record<string, never>>
    | Of<'heatmap', heatmap.Options, heatmap.FieldConfig>
    | Of<'table', table.Options, table.FieldConfig>
    | (Omit<Plain<RowPanel>, 'panels'> & { panels: [] })
  )[];
};
