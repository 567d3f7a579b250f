// The browser of all rows, with the attention drawn over their pictures.
(() => {
  const tasks = JSON.parse(element("data").textContent);
  if (!tasks.length) return;
  const [taskBox, runBox, showBox, relationBox, searchBox] = ["task", "run", "show", "relation", "search"].map(element);
  const [sourceBox, layerBox, boxesBox, heatBox] = ["source", "layer", "boxes", "heat"].map(element);
  const canvas = element("canvas"), detail = element("detail");
  let task, run, shownRow;
  const list = rowList((item, row) => item.append(
    `${task.ids[row]} · ${task.golds[row]} · `, make("span", run.answers[row].slice(0, 80), mark(run, row))), describe);

  const plain = () => task.runs[0];
  const shown = {
    all: () => true,
    overlay: (row) => row in task.overlays,
    flipped: (row) => shown.fixed(row) || shown.broken(row),
    fixed: (row) => run.right[row] > plain().right[row] && plain().right[row] !== null,
    broken: (row) => run.right[row] < plain().right[row] && run.right[row] !== null,
    right: (row) => run.right[row] === 1,
    wrong: (row) => run.right[row] === 0,
  };

  function chooseTask() {
    task = tasks[taskBox.value];
    const names = task.runs.map((one, index) => [index, one.name]);
    fill(runBox, names);
    fill(sourceBox, names);
    runBox.value = String(task.runs.length - 1);
    sourceBox.value = "0";
    fillRelations(task);
    layerBox.max = task.layers.length;  // the last place is the mean of all layers
    layerBox.value = task.layers.length;
    filter();
  }

  function filter() {
    run = task.runs[runBox.value];
    list.show(fitting(task, run, shown[showBox.value]));
  }

  function describe(row) {
    shownRow = row;
    detail.replaceChildren();
    draw();
    if (row === undefined) return;
    detail.append(make("p", task.questions[row], "question"));
    const right = make("p", "Right answer: ");
    right.append(make("strong", task.golds[row]));
    detail.append(right, make("p", `Confidence of the unsteered model: ${number(task.confidences[row], 2)}`, "quiet"));
    detail.append(answerTable(task.runs, row, [["alpha", (one) => one.alphas[row] ?? "-"]]));
  }

  const conditionOf = (overlay) => overlay.conditions[task.runs[sourceBox.value].conditions[shownRow]];
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const bytes = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));

  // The attention of each image token in the chosen layer, or its mean over all layers.
  function attention(condition) {
    const { scale, weights } = condition, all = bytes(weights);
    const columns = all.length / scale.length, layer = Number(layerBox.value);
    const one = (place, column) => (all[place * columns + column] / 255) ** 2 * scale[place];
    return Array.from({ length: columns }, (_, column) => layer < scale.length
      ? one(layer, column)
      : mean(scale.map((_, place) => one(place, column))));
  }

  // Spread over the pixels: a token's attention divided by its area, and added where areas overlap.
  function heatMap(areas, values, width, height) {
    const heat = new Float32Array(width * height);
    for (let place = 0; place < values.length; place++) {
      const [left, top, right, bottom] = areas.subarray(4 * place, 4 * place + 4);
      const x = [left, right].map((side) => Math.round(side / 65535 * width));
      const y = [top, bottom].map((side) => Math.round(side / 65535 * height));
      const density = values[place] / Math.max(1, (x[1] - x[0]) * (y[1] - y[0]));
      for (let line = y[0]; line < y[1]; line++) {
        for (let column = x[0]; column < x[1]; column++) heat[line * width + column] += density;
      }
    }
    return heat;
  }

  function draw() {
    const overlay = shownRow === undefined ? undefined : task.overlays[shownRow];
    element("overlay").hidden = overlay === undefined;
    const absence = element("no-overlay");
    absence.hidden = overlay !== undefined || shownRow === undefined;
    absence.textContent = "This row has no overlay in this page: its picture is not in it (--pictures), or the image's "
      + "tokens cannot be laid over it.";
    if (overlay === undefined) return;
    const layer = Number(layerBox.value), last = layer === task.layers.length;
    element("layer-name").textContent = last ? "mean of all layers" : `layer ${task.layers[layer]}`;
    layerBox.setAttribute("aria-valuetext", element("layer-name").textContent);
    const image = new Image();
    image.onload = () => { if (task.overlays[shownRow] === overlay) paint(overlay, image); };
    image.src = overlay.picture;
    const more = overlay.pictures > 1 ? ` The first of ${overlay.pictures} pictures.` : "";
    const { shares } = conditionOf(overlay), share = last ? mean(shares) : shares[layer];
    element("legend").textContent = `The picture gets ${(100 * share).toFixed(1)}% of the attention (mean of all heads); `
      + `the brightest place has the most of it${overlay.sinks.length ? ", sinks aside" : ""}.${more}`
      + (overlay.boxes.length ? ` Boxes: ${overlay.boxes.map((box) => box.name).join(", ")}.` : "")
      + (overlay.sinks.length ? " Crosses: attention sinks." : "");
  }

  function paint(overlay, image) {
    const width = canvas.width = 480, height = canvas.height = Math.max(1, Math.round(480 * overlay.ratio));
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0, width, height);
    const raw = bytes(overlay.areas), areas = new Uint16Array(raw.buffer);
    if (heatBox.checked) {
      const values = attention(conditionOf(overlay)), sinks = new Set(overlay.sinks);
      const heat = heatMap(areas, values, width, height);
      const largest = (map) => map.reduce((a, b) => Math.max(a, b), 0);
      // A sink would leave all other places dark.
      const others = heatMap(areas, values.map((value, place) => sinks.has(place) ? 0 : value), width, height);
      const most = largest(others) || largest(heat) || 1;
      const picture = context.getImageData(0, 0, width, height);
      heat.forEach((value, place) => {
        const share = Math.sqrt(Math.min(1, value / most)), colour = [255, 200 * share, 40 * share];
        // On grey, so that no colour of the picture is taken for attention.
        const [red, green, blue] = picture.data.subarray(4 * place, 4 * place + 3);
        const grey = 0.6 * (0.3 * red + 0.59 * green + 0.11 * blue);
        colour.forEach((one, channel) => { picture.data[4 * place + channel] = grey + (one - grey) * share * 0.85; });
      });
      context.putImageData(picture, 0, 0);
    }
    for (const place of overlay.sinks) {
      const [left, top, right, bottom] = areas.subarray(4 * place, 4 * place + 4);
      const x = (left + right) / 2 / 65535 * width, y = (top + bottom) / 2 / 65535 * height;
      context.beginPath();
      for (const [from, to] of [[-5, 5], [5, -5]]) { context.moveTo(x - 5, y + from); context.lineTo(x + 5, y + to); }
      for (const [wide, ink] of [[5, "#000"], [2, "#fff"]]) {
        context.lineWidth = wide;
        context.strokeStyle = ink;
        context.stroke();
      }
    }
    if (boxesBox.checked) {
      context.font = "14px system-ui, sans-serif";
      context.lineWidth = 2;
      for (const box of overlay.boxes) {
        const [left, top, right, bottom] = box.sides.map((side, axis) => side * (axis % 2 ? height : width));
        context.strokeStyle = "#00e5ff";
        context.strokeRect(left, top, right - left, bottom - top);
        context.fillStyle = "#00e5ff";
        context.fillText(box.name, left + 3, Math.max(14, top - 4));
      }
    }
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event)) return;
    const step = { h: -1, l: 1 }[event.key];
    if (step === undefined || shownRow === undefined) return;
    layerBox.value = Number(layerBox.value) + step;
    draw();
  });
  element("filters").addEventListener("submit", (event) => event.preventDefault());
  taskBox.addEventListener("change", chooseTask);
  for (const box of [runBox, showBox, relationBox]) box.addEventListener("change", filter);
  searchBox.addEventListener("input", filter);
  for (const box of [sourceBox, boxesBox, heatBox]) box.addEventListener("change", draw);
  layerBox.addEventListener("input", draw);
  fill(taskBox, tasks.map((one, index) => [index, one.name]));
  chooseTask();
})();
