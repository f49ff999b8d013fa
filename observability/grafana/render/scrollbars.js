// @grafana/ui imports this package's default, which a bundler that follows Node takes for the whole package.
export { Scrollbars as default } from 'react-custom-scrollbars-2/lib/index.js';
