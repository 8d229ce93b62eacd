// Every task that is loaded: what it answers, how well, and its card.

import { request } from "./api.js";
import { at, count, element, percent } from "./dom.js";

const FIRST_SHOWN = 48;
const SEARCH_FROM = 7;

export class Gallery {
  constructor(place, onuse) {
    Object.assign(this, { place, onuse, tasks: [], query: "", shown: FIRST_SHOWN });
    at("card").addEventListener("click", ({ target }) => target === at("card") && at("card").close());
  }

  setTasks(tasks, spokenLm) {
    const state = JSON.stringify([tasks, spokenLm]);
    if (state === this.state) return; // drawing again would take the focus away
    Object.assign(this, { tasks, spokenLm, state });
    at("tasks-subtitle").textContent = tasks.length ? `${count(tasks.length, "task")}, one language model. Each is a prompt of a few vectors; the model itself never changes.` : "";
    this.draw();
  }

  draw() {
    if (!this.tasks.length) {
      return this.place.replaceChildren(
        element("div", { class: "empty" }, element("p", {}, "Nothing is loaded yet."), element("p", {}, element("a", { href: "#teach" }, "Teach a task"), " from a few clips, or put an artifact into the server's folder; it appears here by itself.")),
      );
    }
    this.list = element("div", { class: "cards" });
    const search = element("input", { type: "search", placeholder: "Find a task or a label", "aria-label": "Find a task or a label", value: this.query });
    search.addEventListener("input", () => {
      Object.assign(this, { query: search.value, shown: FIRST_SHOWN });
      this.drawList();
    });
    return this.place.replaceChildren(...[this.tasks.length >= SEARCH_FROM && search, this.list].filter(Boolean)), this.drawList();
  }

  drawList() {
    const words = this.query.toLowerCase().trim();
    const found = this.tasks.filter((task) => `${task.name} ${Object.values(task.slots).flat().join(" ")}`.toLowerCase().includes(words));
    const nodes = found.slice(0, this.shown).map((task) => this.card(task));
    if (!found.length) nodes.push(element("p", { class: "empty" }, `Nothing is called “${this.query}”.`));
    if (found.length > this.shown) {
      nodes.push(element("button", { type: "button", class: "link", onclick: () => this.more() }, `${(found.length - this.shown).toLocaleString("en")} more`));
    }
    this.list.replaceChildren(...nodes);
  }

  more() {
    this.shown *= 2;
    this.drawList();
  }

  card(task) {
    const labels = Object.values(task.slots).flat();
    return element(
      "article",
      { class: "task-card" },
      element("h2", {}, element("button", { type: "button", class: "plain", onclick: () => this.open(task.name) }, task.name)),
      element("p", { class: "labels" }, labels.slice(0, 8).join(" · "), labels.length > 8 && ` and ${labels.length - 8} more`),
      accuracyLine(task.metrics),
      element("p", { class: "hint" }, `${count(task.trained_parameters, "trained parameter")} on ${this.spokenLm}`),
      element("button", { type: "button", class: "link", "aria-label": `Ask ${task.name}`, onclick: () => this.onuse(task.name) }, "Ask it"),
    );
  }

  async open(name) {
    const task = await request(`v1/tasks/${encodeURIComponent(name)}`).catch((error) => ({ name, problem: error.message }));
    const close = element("button", { type: "button", class: "quiet", autofocus: true, onclick: () => at("card").close() }, "Close");
    at("card").replaceChildren(element("div", { class: "row" }, element("h2", { id: "card-title" }, name), close), ...(task.problem ? [element("p", { class: "notice" }, task.problem)] : details(task, this.spokenLm)));
    at("card").showModal();
  }
}

// The best numbers that an artifact has: test, then clips that were hidden in turn, then validation.
export function bestNumbers(metrics = {}) {
  const kinds = [["test", "on test clips"], ["held_out", "on clips it had not heard"], ["valid", "on validation clips (chosen on them)"]];
  for (const [split, words] of kinds) {
    const accuracy = metrics[split]?.accuracy;
    if (typeof accuracy === "number") return { estimate: accuracy, words };
    if (accuracy) return { ...accuracy, words };
  }
  return null;
}

function accuracyLine(metrics) {
  const numbers = bestNumbers(metrics);
  if (!numbers) return element("p", { class: "hint" }, "Not evaluated yet.");
  const range = numbers.low === undefined ? "" : ` (${percent(numbers.low)} to ${percent(numbers.high)})`;
  return element("p", { class: "accuracy" }, element("b", {}, percent(numbers.estimate)), element("span", { class: "hint" }, ` ${numbers.words}${range}`));
}

function details(task, spokenLm) {
  const corpus = task.corpus ?? {};
  const rows = [
    ...Object.entries(task.slots).map(([slot, labels]) => [`Labels of ${slot}`, labels.join(", ")]),
    ["Spoken LM", spokenLm],
    ["Trained parameters", task.trained_parameters?.toLocaleString("en")],
    ["Prompt", `${task.prompt_length} vectors a layer, ${task.method}, ${task.verbalizer} verbalizer`],
    ["Prompts", task.prompts > 1 ? `${task.prompts} that answer together` : ""],
    ["Hears a clip", task.answer_copies ? `${task.answer_copies + 1} times: as it is and at ${task.answer_copies} other speeds; the answer is the mean` : "once"],
    ["Recipe", task.recipe],
    ["Temperatures", Object.entries(task.temperatures ?? {}).map(([slot, value]) => `${slot} ${Number(value).toFixed(2)}`).join(", ")],
    ["Abstains below", task.threshold ? percent(task.threshold) : "never"],
    ["Data", corpus.name],
    ["Licence of the data", corpus.licence ?? "not stated"],
    ["Citation", corpus.citation],
    ["Splits", corpus.split_rule],
    ["Clips", corpus.utterances && Object.entries(corpus.utterances).filter(([, n]) => n).map(([split, n]) => `${n.toLocaleString("en")} ${split}`).join(", ")],
  ].filter(([, value]) => value);
  return [
    accuracyLine(task.metrics),
    element("dl", { class: "facts" }, rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)))),
  ];
}
