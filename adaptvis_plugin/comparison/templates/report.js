// The browser of all rows.
(() => {
  const tasks = JSON.parse(element("data").textContent);
  const [taskBox, runBox, showBox, relationBox, searchBox] = ["task", "run", "show", "relation", "search"].map(element);
  const detail = element("detail");
  let task, run, baseline;
  const list = rowList((item, row) => item.append(
    `${task.ids[row]} · ${task.golds[row]} · `, make("span", run.answers[row].slice(0, 80), mark(run, row))), describe);

  const shown = {
    all: () => true,
    flipped: (row) => shown.fixed(row) || shown.broken(row),
    fixed: (row) => baseline !== undefined && run.right[row] > baseline.right[row],
    broken: (row) => baseline !== undefined && run.right[row] < baseline.right[row],
    right: (row) => run.right[row] === 1,
    wrong: (row) => run.right[row] === 0,
    form: (row) => baseline !== undefined && run.forms[row] !== baseline.forms[row],
  };

  function chooseTask() {
    task = tasks[taskBox.value];
    baseline = task.baseline === null ? undefined : task.runs[task.baseline];
    fill(runBox, task.runs.map((one, number) => [number, one.name]));
    runBox.value = String(task.runs.length - 1);
    fillRelations(task);
    for (const option of showBox.options) {
      option.disabled = baseline === undefined && ["flipped", "fixed", "broken", "form"].includes(option.value);
    }
    if (showBox.selectedOptions[0].disabled) showBox.value = "all";
    filter();
  }

  function filter() {
    run = task.runs[runBox.value];
    list.show(fitting(task, run, shown[showBox.value]));
  }

  function picture(row) {
    const id = task.ids[row];
    const above = document.querySelector(`img[data-task="${tasks.indexOf(task)}"][data-row="${CSS.escape(id)}"]`);
    return above ? above.src : task.images[id];
  }

  function describe(row) {
    detail.replaceChildren();
    if (row === undefined) return;
    const source = picture(row);
    if (source) {
      const image = make("img");
      image.src = source;
      image.alt = `Picture of row ${task.ids[row]}`;
      detail.append(image);
    } else {
      detail.append(make("p", "The picture of this row is not in this page.", "quiet"));
    }
    detail.append(make("p", task.questions[row], "question"));
    const right = make("p", "Right answer: ");
    right.append(make("strong", task.golds[row]));
    detail.append(right);
    const names = [...new Set(task.runs.flatMap((one) => Object.keys(one.chances[row] ?? {})))];
    detail.append(answerTable(task.runs, row, [
      ["alpha", (one) => one.alphas[row] ?? "-"],
      ["confidence", (one) => number(one.confidences[row], 2)],
      ...names.map((name) => [name, (one) => number(one.chances[row]?.[name] ?? null, 2)]),
    ]));
    if (names.length) detail.append(make("p", "The columns with options: their probabilities at the first token.", "quiet"));
  }

  element("filters").addEventListener("submit", (event) => event.preventDefault());
  taskBox.addEventListener("change", chooseTask);
  for (const box of [runBox, showBox, relationBox]) box.addEventListener("change", filter);
  searchBox.addEventListener("input", filter);
  fill(taskBox, tasks.map((one, index) => [index, one.name]));
  chooseTask();
})();
