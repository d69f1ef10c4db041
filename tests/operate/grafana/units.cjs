// Prints every unit that Grafana knows, as a JSON list.
// It asks a browser's language for its formats of dates.
globalThis.navigator = { language: 'en', languages: ['en'] };
const { getValueFormats } = require('@grafana/data');
console.log(JSON.stringify(getValueFormats().flatMap((group) => group.submenu.map((unit) => unit.value))));
