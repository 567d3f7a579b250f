"use strict";
// What the pages' browsers of rows share. All text is set as text and never as markup.
const element = (id) => document.getElementById(id);
const make = (name, text, className) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
};
const fill = (box, entries) => box.replaceChildren(...entries.map(([value, text]) => {
  const option = make("option", text);
  option.value = value;
  return option;
}));
const mark = (run, row) => run.right[row] === 1 ? "good" : run.right[row] === 0 ? "bad" : "";
const number = (value, digits) => value === null ? "-" : value.toFixed(digits);

// Whether the focus is where letters are typed, or chosen by; on a slider or a checkbox they are free.
const typing = (event) => event.target.closest("input:not([type=range], [type=checkbox]), select, textarea") !== null;

// A table of what each run answered in a row; further columns have a title and a function that gives a run's text.
function answerTable(runs, row, columns) {
  const table = make("table"), head = make("tr"), scroll = make("div", undefined, "scroll");
  head.append(...["run", "answer", ...columns.map(([title]) => title)].map((title, place) => {
    const cell = make("th", title, place === 1 ? "text" : "");
    cell.scope = "col";
    return cell;
  }));
  table.append(make("thead"), make("tbody"));
  table.tHead.append(head);
  for (const run of runs) {
    const line = make("tr"), first = make("th", run.name), answer = make("td", undefined, "text");
    first.scope = "row";
    answer.append(make("span", run.answers[row] || "(empty)", mark(run, row)));
    line.append(first, answer, ...columns.map(([, text]) => make("td", text(run))));
    table.tBodies[0].append(line);
  }
  scroll.append(table);
  return scroll;
}

// A list of rows, one of which is chosen, by mouse or by keyboard.
// `entry` fills a row's item; `describe` shows the chosen row, or none if it is undefined.
function rowList(entry, describe) {
  const list = element("list"), count = element("count");
  let rows = [], place = 0;

  function show(found) {
    rows = found;
    list.replaceChildren(...rows.map((row, index) => {
      const item = make("li");
      item.id = `row-${index}`;
      item.setAttribute("role", "option");
      entry(item, row);
      item.addEventListener("click", () => choose(index));
      return item;
    }));
    choose(0);
  }

  function choose(next) {
    list.children[place]?.removeAttribute("aria-selected");
    place = Math.max(0, Math.min(next, rows.length - 1));
    count.textContent = rows.length ? `Row ${place + 1} of ${rows.length}` : "No row fits these filters.";
    list.removeAttribute("aria-activedescendant");
    const item = list.children[place];
    if (item) {
      item.setAttribute("aria-selected", "true");
      list.setAttribute("aria-activedescendant", item.id);
      // Not scrollIntoView, which would move the whole page as well.
      if (item.offsetTop < list.scrollTop + list.offsetTop) list.scrollTop = item.offsetTop - list.offsetTop;
      const below = item.offsetTop + item.offsetHeight - list.offsetTop - list.clientHeight;
      if (below > list.scrollTop) list.scrollTop = below;
    }
    describe(rows[place]);
  }

  const steps = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event)) return;
    const inList = event.target === list;
    // The arrow keys scroll the page, except where the rows are.
    if (!(event.key in steps || (inList && ["Home", "End"].includes(event.key)))) return;
    if (event.key.startsWith("Arrow") && !inList) return;
    event.preventDefault();
    choose(event.key === "Home" ? 0 : event.key === "End" ? rows.length - 1 : place + steps[event.key]);
  });
  return { show };
}

// The browser closes what is folded up when it prints.
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const one of opened) one.open = true;
});
window.addEventListener("afterprint", () => { for (const one of opened) one.open = false; });

// The rows of a task that fit the filters of the page.
function fitting(task, run, shows) {
  const relation = element("relation").value, words = element("search").value.toLowerCase();
  return task.ids.map((_, row) => row).filter((row) =>
    shows(row)
    && (!relation || task.relations[row] === relation)
    && (!words || `${task.questions[row]} ${task.golds[row]} ${run.answers[row]}`.toLowerCase().includes(words)));
}

// Offer the relations of a task.
function fillRelations(task) {
  const relations = [...new Set(task.relations)].filter(Boolean).sort();
  fill(element("relation"), [["", "all"], ...relations.map((name) => [name, name])]);
  element("relation").disabled = relations.length === 0;
}
