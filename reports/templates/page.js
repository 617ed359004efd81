"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const data = JSON.parse(document.getElementById("data").textContent);
const make = (name, text, parent) => {
  const element = document.createElement(name);
  if (text) element.textContent = text;
  parent?.append(element);
  return element;
};

// Sorting: by data-k where a cell has one, as numbers where both are, else as text; empty cells come last.
const order = (row, column) => {
  const cell = row.children[column];
  return cell.dataset.k ?? cell.textContent.trim();
};
const compare = (a, b) => {
  if ((a === "") !== (b === "")) return a === "" ? Infinity : -Infinity;
  const difference = Number(a) - Number(b);
  return Number.isNaN(difference) ? a.localeCompare(b) : difference;
};
for (const table of all("table.sortable")) {
  const heads = all("thead th", table);
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const found = compare(order(a, column), order(b, column));
      return Number.isFinite(found) && down ? -found : Math.sign(found);
    });
    table.tBodies[0].append(...rows);
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  }));
}

// Filters: a text over what a row says, and one word out of its data-status and data-family.
for (const form of all("form.filter")) {
  const table = document.getElementById(form.dataset.for);
  const apply = () => {
    const text = form.elements.text.value.trim().toLowerCase();
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const words = `${row.textContent} ${row.dataset.find}`.toLowerCase();
      const has = name => !form.elements[name].value || row.dataset[name].split("|").includes(form.elements[name].value);
      row.hidden = !(words.includes(text) && has("status") && has("family"));
      shown += !row.hidden;
    }
    form.querySelector("output").textContent = `${shown} of ${table.tBodies[0].rows.length} ${table.dataset.unit}`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", event => event.preventDefault());
}

// Copying: the clipboard where the browser lets us, else the selection.
const copy = async (button, code) => {
  let done = true;
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    getSelection().selectAllChildren(code);
    done = document.execCommand("copy");
  }
  button.textContent = done ? "Copied" : "Press Ctrl+C";
  document.getElementById("said").textContent = done ? "Copied to the clipboard" : "Selected; press Ctrl+C to copy";
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
};
document.addEventListener("click", event => {
  const button = event.target.closest("button.copy");
  if (button) copy(button, button.parentNode.querySelector("code"));
});

// Evidence of a cell.
const dialog = document.getElementById("evidence");
const show = cell => {
  const {law, fault} = cell.closest("tr").dataset;
  const place = cell.closest("td, th").cellIndex;
  const head = cell.closest("table").tHead.rows[0].cells[place].textContent;
  const body = document.getElementById("evidence-body");
  body.replaceChildren();
  document.getElementById("evidence-title").textContent = fault ?? `${head}: ${law.replaceAll("_", " ")}`;
  if (law) {
    make("p", data.laws[law][0], body);
    make("code", data.laws[law][1], make("p", "", body));
  }
  const facts = law ? data.laws[law][2][place - 2] : data.faults[fault];  // the first kernel is in the third column
  const list = make("dl", "", body);
  for (let i = 0; i < facts.length; i += 2) {
    const term = data.terms[facts[i]], text = facts[i + 1];
    make("dt", term, list);
    const told = make("dd", "", list);
    if (data.code.includes(term)) make("code", text, told);
    else if (data.copy.includes(term)) {
      const box = make("div", "", told);
      box.className = "copyable";
      make("code", text, box);
      Object.assign(make("button", "Copy", box), {className: "copy", type: "button"});
    } else told.textContent = text;
  }
  dialog.showModal();
  body.scrollTop = 0;
};
document.getElementById("evidence-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });

// Cells: a click opens the evidence; one cell of a table is a stop of the Tab key, arrows move on from there.
const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
for (const table of all("table.matrix, table.kill")) {
  const cells = all("button.cell", table);
  cells.forEach((cell, i) => { cell.tabIndex = i ? -1 : 0; });
  const go = cell => {
    for (const other of cells) other.tabIndex = -1;
    cell.tabIndex = 0;
    cell.focus();
  };
  table.addEventListener("keydown", event => {
    const here = event.target.closest("button.cell");
    if (!here || !(event.key in steps)) return;
    event.preventDefault();
    const [down, right] = steps[event.key];
    const rows = [...table.tBodies[0].rows].filter(row => !row.hidden);
    let row = rows.indexOf(here.closest("tr")), column = here.parentNode.cellIndex;
    do {
      row += down;
      column += right;
      const next = rows[row]?.children[column];
      if (!next) return;
      if (next.querySelector("button.cell")) return go(next.querySelector("button.cell"));
    } while (true);
  });
  table.addEventListener("click", event => {
    const cell = event.target.closest("button.cell");
    if (!cell) return;
    go(cell);
    show(cell);
  });
}

// A printed page shows what is folded on the screen.
let folded = [];
addEventListener("beforeprint", () => { folded = all("details:not([open])"); for (const one of folded) one.open = true; });
addEventListener("afterprint", () => { for (const one of folded) one.open = false; });
