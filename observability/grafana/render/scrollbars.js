// @grafana/ui imports this package's default export; a bundler that follows Node's rules resolves it to the whole package.
export { Scrollbars as default } from 'react-custom-scrollbars-2/lib/index.js';
