// The page: each panel at its position in the dashboard's grid, rendered by Grafana's components.
import { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';

import {
  applyFieldOverrides,
  createTheme,
  dateTime,
  FieldConfigOptionsRegistry,
  getFieldDisplayValues,
  getDisplayValueAlignmentFactors,
  ThemeContext,
  transformDataFrame,
} from '@grafana/data';
import { initPluginTranslations } from '@grafana/i18n';
import { BarGauge, BigValue, GlobalStyles, PanelChrome, Table, TimeSeries, VizRepeater } from '@grafana/ui';

import { frames } from './frames.js';

const { panels, from, to, width, row, light } = window.SHOWN;
const GAP = 8;
const theme = createTheme({ colors: { mode: light ? 'light' : 'dark' } });
const range = { from: dateTime(from * 1000), to: dateTime(to * 1000) };
const timeRange = { ...range, raw: range };
const asIs = (text) => text;

// Reads the list of properties that a field may have from Grafana's panel.
function propertiesOf({ fieldConfig: { defaults, overrides } }) {
  const own = Object.keys(defaults).filter((name) => name !== 'custom');
  const custom = Object.keys(defaults.custom ?? {}).map((name) => `custom.${name}`);
  const overridden = overrides.flatMap(({ properties }) => properties.map(({ id }) => id));
  return [...new Set([...own, ...custom, ...overridden])].map((id) => ({
    id,
    path: id.replace(/^custom\./, ''),
    isCustom: id.startsWith('custom.'),
    name: id,
    process: (value) => value,
    shouldApply: () => true,
  }));
}

function useData(panel) {
  const [data, setData] = useState(null);
  useEffect(() => {
    const subscription = transformDataFrame(panel.transformations ?? [], frames(panel)).subscribe((transformed) =>
      setData(
        applyFieldOverrides({
          data: transformed,
          fieldConfig: panel.fieldConfig,
          fieldConfigRegistry: new FieldConfigOptionsRegistry(() => propertiesOf(panel)),
          replaceVariables: asIs,
          theme,
          timeZone: 'utc',
        }),
      ),
    );
    return () => subscription.unsubscribe();
  }, [panel]);
  return data;
}

const shownValues = (panel, data) =>
  getFieldDisplayValues({
    data,
    fieldConfig: panel.fieldConfig,
    reduceOptions: panel.options.reduceOptions,
    replaceVariables: asIs,
    theme,
    timeZone: 'utc',
  });

function Graph({ panel, data, width, height }) {
  return (
    <TimeSeries
      frames={data}
      timeRange={timeRange}
      timeZone="utc"
      width={width}
      height={height}
      legend={panel.options.legend}
      options={panel.options}
    />
  );
}

function Figure({ panel, data, width, height }) {
  const { colorMode, graphMode, justifyMode, textMode } = panel.options;
  const [one] = shownValues(panel, data);
  const looks = { colorMode, graphMode, justifyMode, textMode };
  return <BigValue value={one.display} {...looks} theme={theme} width={width} height={height} />;
}

function Bars({ panel, data, width, height }) {
  const { displayMode, orientation, showUnfilled } = panel.options;
  return (
    <VizRepeater
      source={data}
      getValues={() => shownValues(panel, data)}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderCounter={0}
      width={width}
      height={height}
      orientation={orientation}
      minVizHeight={16}
      maxVizHeight={300}
      itemSpacing={8}
      renderValue={({ value, alignmentFactors, orientation: way, width: w, height: h, count }) => (
        <BarGauge
          value={value.display}
          field={value.field}
          display={value.view?.getFieldDisplayProcessor(value.colIndex ?? 0)}
          text={panel.options.text}
          alignmentFactors={count === 1 ? undefined : alignmentFactors}
          displayMode={displayMode}
          orientation={way}
          showUnfilled={showUnfilled}
          valueDisplayMode={panel.options.valueMode}
          theme={theme}
          width={w}
          height={h}
        />
      )}
    />
  );
}

function Grid({ panel, data, width, height }) {
  return <Table data={data[0]} width={width} height={height} timeRange={timeRange} showTypeIcons={false} />;
}

function Nothing({ panel, height }) {
  const style = { height, display: 'grid', placeItems: 'center', color: theme.colors.text.secondary };
  return <div style={style}>{panel.fieldConfig.defaults.noValue ?? 'No data'}</div>;
}

const KINDS = { timeseries: Graph, stat: Figure, bargauge: Bars, table: Grid };

function Panel({ panel, width, height }) {
  const data = useData(panel);
  const Kind = KINDS[panel.type];
  return (
    <PanelChrome title={panel.title} description={panel.description} width={width} height={height}>
      {(innerWidth, innerHeight) => {
        if (data === null) {
          return null;
        }
        if (panel.type !== 'stat' && data.every((frame) => frame.length === 0)) {
          return <Nothing panel={panel} height={innerHeight} />;
        }
        return <Kind panel={panel} data={data} width={innerWidth} height={innerHeight} />;
      }}
    </PanelChrome>
  );
}

function Placed({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const column = (width - GAP) / 24;
  const size = { width: w * column - GAP, height: h * row - GAP };
  const place = { position: 'absolute', left: GAP + x * column, top: GAP + y * row, ...size };
  if (panel.type === 'row') {
    const heading = { ...place, color: theme.colors.text.primary, fontSize: 16, lineHeight: '30px' };
    return <div style={heading}>{panel.title}</div>;
  }
  return (
    <div style={place}>
      <Panel panel={panel} {...size} />
    </div>
  );
}

function Page() {
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      {panels.map((panel) => (
        <Placed key={panel.id} panel={panel} />
      ))}
    </ThemeContext.Provider>
  );
}

document.body.style.background = theme.colors.background.canvas;
show();

async function show() {
  await initPluginTranslations('samepaged');
  createRoot(document.getElementById('root')).render(<Page />);
}
