// Draws the state of SessionView (widget.py). All data comes from a sandbox: textContent only, never HTML.

const STYLE = `
.dk-view { font-size: 13px; line-height: 1.4; border: 1px solid var(--jp-border-color2, #ccc); padding: 8px; }
.dk-view pre { margin: 2px 0; max-height: 16em; overflow: auto; white-space: pre-wrap; }
.dk-view .dk-tail { display: flex; flex-direction: column-reverse; max-height: 16em; overflow: auto; }
.dk-view .dk-tail pre { max-height: none; overflow: visible; }
.dk-view table { border-collapse: collapse; width: 100%; }
.dk-view th, .dk-view td { text-align: left; padding: 1px 8px 1px 0; vertical-align: top; }
.dk-view .dk-table { max-height: 20em; overflow: auto; }
.dk-view .dk-failed { color: var(--jp-error-color1, #b00); }
.dk-view .dk-here { background: var(--jp-warn-color3, #ffe8a3); }
.dk-view summary { cursor: pointer; }
`;

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function code(text, line) {
  const pre = element("pre");
  text.split("\n").forEach((content, at) => {
    pre.append(element("span", content, at + 1 === line ? "dk-here" : ""), "\n");
  });
  return pre;
}

function stepOf(step, open) {
  const details = element("details");
  details.open = open;
  const took = step.took_s === null ? "" : `, ${step.took_s} s`;
  const first = step.code.split("\n").find((line) => line.trim()) ?? "";
  const head = element("summary", `${step.number} ${step.state}${took} `);
  head.append(element("code", first.slice(0, 100)));
  if (step.state === "failed") head.className = "dk-failed";
  details.append(head);
  if (step.state !== "running") details.append(code(step.code)); // the running cell is shown above, with its line
  if (step.tail) {
    const tail = element("div", undefined, "dk-tail"); // scrolled to the end
    tail.append(element("pre", step.tail));
    details.append(tail);
  }
  if (step.error) details.append(element("pre", step.error, "dk-failed"));
  return details;
}

function tableOf(rows) {
  const table = element("table");
  const head = table.createTHead().insertRow();
  for (const name of ["Name", "Type", "Size", "Shape", "Value"]) head.append(element("th", name));
  const body = table.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const cell of row) line.append(element("td", cell));
  }
  return table;
}

function render({ model, el }) {
  const root = element("div", undefined, "dk-view");
  const title = element("b"), now = element("div"), steps = element("div");
  const variables = element("div", undefined, "dk-table"), foot = element("div");
  root.append(element("style", STYLE), title, now, steps, variables, foot);
  el.append(root);
  const opened = new Map(); // keeps what the user opened or closed

  const drawNow = () => {
    const over = model.get("over"), state = model.get("now");
    title.textContent = `Session ${model.get("session")}${over ? ` is over: ${over}` : ""}`;
    now.replaceChildren(...(state.headings ?? []).map((line) => element("div", line)));
    if (!over && state.code) {
      const running = code(state.code, state.line), here = running.querySelector(".dk-here");
      now.append(running);
      if (here) running.scrollTop = here.offsetTop - running.offsetTop - running.clientHeight / 2;
    }
    foot.replaceChildren(...(state.footings ?? []).map((line) => element("div", line)));
  };
  const drawSteps = () => {
    const known = model.get("steps");
    steps.replaceChildren(...known.map((step, at) => {
      const details = stepOf(step, opened.get(step.number) ?? at === known.length - 1);
      details.querySelector("summary").addEventListener("click", () => opened.set(step.number, !details.open));
      return details;
    }));
  };
  const drawVariables = () => {
    const rows = model.get("variables");
    variables.replaceChildren(...(rows.length ? [tableOf(rows)] : []));
  };

  drawNow(); drawSteps(); drawVariables();
  model.on("change:now", drawNow);
  model.on("change:over", drawNow);
  model.on("change:steps", drawSteps);
  model.on("change:variables", drawVariables);
}

export default { render };
