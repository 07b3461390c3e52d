// The widget as it is shipped: minified by the pinned terser with terser.json.
import { readFile } from "node:fs/promises";
import { minify } from "terser";

const file = (name) => readFile(new URL(`../${name}`, import.meta.url), "utf8");

export const minified = async () => (await minify(await file("userhero-widget.js"), JSON.parse(await file("terser.json")))).code;
