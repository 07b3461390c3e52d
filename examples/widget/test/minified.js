// The widget and its words as they are shipped: minified by the pinned terser with terser.json.
import { readFile } from "node:fs/promises";
import { minify } from "terser";

const file = (name) => readFile(new URL(`../${name}`, import.meta.url), "utf8");

export const minified = async (name) => (await minify(await file(name), JSON.parse(await file("terser.json")))).code;
