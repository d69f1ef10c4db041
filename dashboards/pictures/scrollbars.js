// Its default export is lost between an ES module and CommonJS.
export { Scrollbars as default, Scrollbars } from './node_modules/react-custom-scrollbars-2/lib/index.js';
