// node render.mjs DASHBOARD.json OUT.png --prometheus URL --instance HOST:PORT [--domain NAME] [--minutes 30]
//   [--rows 'Now,Pauses'] [--width 1500] [--light] [--chromium PATH]
//
// Runs the queries of the dashboard on Prometheus, bundles Grafana's panels with the responses into one page (build/), and
// takes a screenshot with headless Chromium.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { build } from 'esbuild';

const HERE = dirname(fileURLToPath(import.meta.url));
const POINTS = 240;
const ROW = 38; // pixels of one unit of the grid's height in Grafana, including its gap

const { values: set, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    prometheus: { type: 'string' },
    instance: { type: 'string' },
    domain: { type: 'string', default: '' },
    minutes: { type: 'string', default: '30' },
    rows: { type: 'string', default: '' },
    width: { type: 'string', default: '1500' },
    light: { type: 'boolean', default: false },
    chromium: { type: 'string', default: 'chromium' },
  },
});
const [source, picture] = positionals;
if (!source || !picture || !set.prometheus || !set.instance) {
  console.error('usage: node render.mjs DASHBOARD.json OUT.png --prometheus URL --instance HOST:PORT [--domain NAME] …');
  process.exit(2);
}

const to = Date.now() / 1000;
const from = to - 60 * Number(set.minutes);

function interpolated(query) {
  return query.replaceAll('$instance', set.instance).replaceAll('$domain', set.domain);
}

async function answer(target) {
  const parameters = target.instant
    ? { query: interpolated(target.expr), time: to }
    : { query: interpolated(target.expr), start: from, end: to, step: Math.max(1, Math.round((to - from) / POINTS)) };
  const url = `${set.prometheus}/api/v1/${target.instant ? 'query' : 'query_range'}?${new URLSearchParams(parameters)}`;
  const said = await (await fetch(url)).json();
  if (said.status !== 'success') {
    throw new Error(`${target.expr}: ${said.error}`);
  }
  return said.data.result;
}

// The requested rows, moved to the top of the page.
function chosen(dashboard) {
  const wanted = set.rows === '' ? null : set.rows.split(',');
  const panels = [];
  let [taken, y, shift] = [true, 0, 0];
  for (const panel of dashboard.panels) {
    if (panel.type === 'row') {
      taken = wanted === null || wanted.includes(panel.title);
      shift = panel.gridPos.y - y;
    }
    if (taken) {
      const at = { ...panel.gridPos, y: panel.gridPos.y - shift };
      panels.push({ ...panel, gridPos: at });
      y = Math.max(y, at.y + at.h);
    }
  }
  return { panels, height: y };
}

const { panels, height } = chosen(JSON.parse(readFileSync(source, 'utf8')));
for (const panel of panels) {
  panel.answers = await Promise.all((panel.targets ?? []).map(answer));
}
const width = Number(set.width);
const shown = { panels, from, to, width, row: ROW, light: set.light };

mkdirSync(join(HERE, 'build'), { recursive: true });
await build({
  entryPoints: [join(HERE, 'page.jsx')],
  outfile: join(HERE, 'build', 'page.js'),
  bundle: true,
  format: 'iife',
  jsx: 'automatic',
  plugins: [
    {
      name: 'scrollbars',
      setup: ({ onResolve }) =>
        onResolve({ filter: /^react-custom-scrollbars-2$/ }, () => ({ path: join(HERE, 'scrollbars.js') })),
    },
  ],
  define: { 'process.env.NODE_ENV': '"production"', 'process.env': '{}' },
  loader: { '.ttf': 'dataurl', '.woff': 'dataurl', '.woff2': 'dataurl', '.svg': 'dataurl', '.png': 'dataurl' },
  logLevel: 'error',
});
const data = JSON.stringify(shown).replaceAll('<', '\\u003c');
const page = join(HERE, 'build', 'page.html');
writeFileSync(
  page,
  `<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="page.css"><body style="margin:0"><div id="root"></div>` +
    `<script>window.SHOWN = ${data}</script><script src="page.js"></script>`,
);

const profile = mkdtempSync(join(tmpdir(), 'render-'));
try {
  execFileSync(
    set.chromium,
    [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--hide-scrollbars',
      '--allow-file-access-from-files',
      `--user-data-dir=${profile}`,
      `--window-size=${width},${height * ROW + 8}`,
      '--virtual-time-budget=8000',
      '--enable-logging=stderr',
      `--screenshot=${resolve(picture)}`,
      `file://${page}`,
    ],
    { stdio: ['ignore', 'ignore', process.env.RENDER_LOG ? 'inherit' : 'ignore'], timeout: 120_000 },
  );
} finally {
  rmSync(profile, { recursive: true, force: true });
}
console.log(`${picture}: ${panels.length} panels and rows`);
