// Searches the pages for all words that were typed.
const input = document.getElementById("search");
const found = document.getElementById("found");
let pages;

input.hidden = false;
input.addEventListener("input", async () => {
	pages ??= fetch(input.dataset.index).then((answer) => answer.json());
	const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
	const matches = words.length === 0 ? [] : (await pages).filter(({ title, text }) => {
		const all = `${title} ${text}`.toLowerCase();
		return words.every((word) => all.includes(word));
	});
	found.replaceChildren(...matches.map(({ title, url }) => {
		const link = document.createElement("a");
		link.href = url;
		link.textContent = title;
		const item = document.createElement("li");
		item.append(link);
		return item;
	}));
	found.hidden = words.length === 0;
});
