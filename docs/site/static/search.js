// Searches the pages for all words that were typed.
const root = new URL(".", document.currentScript.src);
const input = document.getElementById("search");
const found = document.getElementById("found");
let loading;

// load loads the texts of all pages, once. They are a script, because a page in a folder
// cannot fetch a file.
const load = () => loading ??= new Promise((resolve, reject) => {
	const script = document.createElement("script");
	script.src = new URL("pages.js", root);
	script.onload = () => resolve(window.pages);
	script.onerror = reject;
	document.head.append(script);
});

input.hidden = false;
input.addEventListener("input", async () => {
	const pages = await load();
	const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
	const matches = words.length === 0 ? [] : pages.filter(({ title, text }) => {
		const all = `${title} ${text}`.toLowerCase();
		return words.every((word) => all.includes(word));
	});
	found.replaceChildren(...matches.map(({ title, url }) => {
		const link = document.createElement("a");
		link.href = new URL(url, root);
		link.textContent = title;
		const item = document.createElement("li");
		item.append(link);
		return item;
	}));
	found.hidden = words.length === 0;
});
