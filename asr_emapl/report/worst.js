// Sort and filter the worst utterances. Without JavaScript, the page shows all, most errors first.
const list = document.getElementById("worst");
const controls = document.getElementById("worst-controls");
const [order, filter, shown] = ["order", "filter", "shown"].map((name) => controls.querySelector("." + name));
const articles = [...list.children];

function value(article, key) {
  return Number(key === "duration" ? article.dataset.duration : article.dataset.errors.split(" ")[key]);
}

function update() {
  const wanted = filter.value.toLowerCase();
  for (const article of articles) article.hidden = !article.textContent.toLowerCase().includes(wanted);
  const sorted = [...articles];
  if (order.value !== "all") sorted.sort((a, b) => value(b, order.value) - value(a, order.value));
  list.append(...sorted);
  const count = articles.filter((article) => !article.hidden).length;
  shown.textContent = `${count} of ${articles.length} shown`;
}

order.addEventListener("change", update);
filter.addEventListener("input", update);
controls.hidden = false;
update();
