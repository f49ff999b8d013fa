// Converts Prometheus responses to Grafana's data frames, like Grafana's Prometheus data source.
import { FieldType, standardTransformers, standardTransformersRegistry, toDataFrame } from '@grafana/data';

// The transformations that the dashboards use.
const USED = ['mergeTransformer', 'organizeFieldsTransformer', 'groupingToMatrixTransformer', 'sortByTransformer'].map(
  (name) => standardTransformers[name],
);
standardTransformersRegistry.setInit(() =>
  USED.map((transformation) => ({
    id: transformation.id,
    name: transformation.name,
    transformation: async () => transformation,
    imageDark: '',
    imageLight: '',
  })),
);

function named(legend, labels) {
  const { __name__: metric, ...others } = labels;
  if (!legend || legend === '__auto') {
    const shown = Object.entries(others).map(([name, value]) => `${name}="${value}"`);
    return `${metric ?? ''}{${shown.join(', ')}}`;
  }
  return legend.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => others[label] ?? '');
}

// As in the responses of Grafana's server: values that are not finite are missing.
function number(text) {
  const value = Number(text);
  return Number.isFinite(value) ? value : null;
}

function series(target, { metric, values, value }) {
  const points = values ?? [value];
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: points.map(([when]) => when * 1000) },
      {
        name: 'Value',
        type: FieldType.number,
        labels: metric,
        values: points.map(([, text]) => number(text)),
        config: { displayNameFromDS: named(target.legendFormat, metric) },
      },
    ],
  });
}

function table(target, answer, many) {
  const labels = [...new Set(answer.flatMap(({ metric }) => Object.keys(metric)))].sort();
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: answer.map(({ value }) => value[0] * 1000) },
      ...labels.map((label) => ({
        name: label,
        type: FieldType.string,
        values: answer.map(({ metric }) => metric[label] ?? ''),
      })),
      {
        name: many ? `Value #${target.refId}` : 'Value',
        type: FieldType.number,
        values: answer.map(({ value }) => number(value[1])),
      },
    ],
  });
}

export function frames({ targets, answers }) {
  return targets.flatMap((target, index) =>
    target.format === 'table'
      ? [table(target, answers[index], targets.length > 1)]
      : answers[index].map((one) => series(target, one)),
  );
}
