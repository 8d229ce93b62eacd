// Which tasks are asked: all of them, or those that are ticked; a search where there are many.

import { count, element } from "./dom.js";

const SEARCH_FROM = 9; // tasks; fewer fit in one look
const ALL_UP_TO = 24; // tasks that are all ticked at first; of more, the first few
const FIRST_CHOSEN = 8;
const MOST_SHOWN = 60;

export class Picker {
  constructor(place, onchange) {
    Object.assign(this, { place, onchange, names: [], chosen: new Set(), query: "" });
  }

  // Keeps what was ticked; a task that is new is ticked where all were.
  setNames(names) {
    if (names.length && String(names) === String(this.names)) return;
    const fresh = !this.names.length;
    const all = this.chosen.size === this.names.length;
    const kept = names.filter((name) => all || this.chosen.has(name));
    this.names = names;
    this.chosen = new Set(kept.length ? kept : names);
    if (fresh && names.length > ALL_UP_TO) this.chosen = new Set(names.slice(0, FIRST_CHOSEN));
    this.draw();
  }

  choose(names) {
    this.chosen = new Set(names);
    this.draw();
    this.onchange();
  }

  get everything() {
    return this.chosen.size === this.names.length;
  }

  draw() {
    if (!this.names.length) return this.place.replaceChildren();
    this.list = element("div", { class: "chips" });
    this.summary = element("span", { class: "hint" });
    const tools = element("span", { class: "tools" }, this.summary);
    if (this.names.length > 2) {
      tools.append(button("All", () => this.choose(this.matching())), button("None", () => this.choose([])));
    }
    const search = element("input", { type: "search", placeholder: "Find a task", "aria-label": "Find a task", value: this.query });
    search.addEventListener("input", () => {
      this.query = search.value;
      this.drawList();
    });
    this.place.replaceChildren(
      element("fieldset", { class: "picker" }, element("legend", { class: "overline" }, "Tasks to ask"), this.names.length >= SEARCH_FROM && search, this.list, tools),
    );
    this.drawList();
  }

  matching() {
    const words = this.query.toLowerCase().trim();
    return this.names.filter((name) => name.toLowerCase().includes(words));
  }

  drawList() {
    const found = this.matching();
    const chips = found.slice(0, MOST_SHOWN).map((name) => this.chip(name));
    const rest = found.length - chips.length;
    if (rest > 0) chips.push(element("span", { class: "hint" }, `and ${rest.toLocaleString("en")} more; search to find them`));
    if (!found.length) chips.push(element("span", { class: "hint" }, `No task is called “${this.query}”.`));
    this.list.replaceChildren(...chips);
    this.summarise();
  }

  chip(name) {
    const box = element("input", { type: "checkbox", checked: this.chosen.has(name) });
    box.addEventListener("change", () => {
      if (box.checked) this.chosen.add(name);
      else this.chosen.delete(name);
      this.summarise();
      this.onchange();
    });
    return element("label", { class: "chip" }, box, element("span", {}, name));
  }

  summarise() {
    const { size } = this.chosen;
    this.summary.textContent = size ? `${size === this.names.length ? "all" : size} of ${count(this.names.length, "task")}` : "Choose at least one task.";
  }
}

function button(words, onclick) {
  return element("button", { type: "button", class: "link", onclick }, words);
}
