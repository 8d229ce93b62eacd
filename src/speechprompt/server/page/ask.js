// The view that asks: a clip from the microphone or a file, the chosen tasks, their answers.

import { answerCards } from "./answers.js";
import { form, request } from "./api.js";
import { at, count, element, seconds, tell } from "./dom.js";
import { History, summary } from "./history.js";
import { Picker } from "./picker.js";
import { RecordButton } from "./record-button.js";
import { drawSnippets } from "./snippets.js";
import { decoded, wavFile } from "./sound.js";
import { Waveform } from "./waveform.js";

const SCORES = 20; // labels a slot that are asked for
const SETTLE_MILLISECONDS = 250;
const MOST_SPOKEN = 6; // answers that a screen reader is told at once

export class Ask {
  constructor() {
    this.picker = new Picker(at("picker"), () => this.tasksChanged());
    this.history = new History(at("history"), (entry) => this.open(entry));
    this.waiting = [];
    this.recordings = 0;
    this.explaining = null; // {task, slot}
    this.recordButton = new RecordButton((samples) => this.recorded(samples), (message) => tell(at("ask-notice"), message));
    at("files").addEventListener("change", ({ target }) => {
      this.add([...target.files]);
      target.value = "";
    });
  }

  setTasks(names) {
    this.picker.setNames(names);
    if (!names.length) {
      at("picker").replaceChildren(
        element("p", { class: "empty" }, "No task is loaded yet. ", element("a", { href: "#teach" }, "Teach one here"), ", or put an artifact into the server's folder: ", element("code", {}, "speechprompt train clips/ --out ARTIFACTS_DIR/answer"), "."),
      );
    }
    this.drawSnippets();
  }

  get tasks() {
    return this.picker.everything ? null : [...this.picker.chosen];
  }

  tasksChanged() {
    this.drawSnippets();
    clearTimeout(this.settling);
    const entry = this.history.current;
    if (entry && this.picker.chosen.size) this.settling = setTimeout(() => this.answer(entry), SETTLE_MILLISECONDS);
  }

  recorded(samples) {
    this.recordings += 1;
    this.add([wavFile(samples, `recording-${this.recordings}.wav`)]);
  }

  add(files) {
    this.waiting.push(...files);
    if (!this.busy) this.work();
  }

  async work() {
    this.busy = true;
    while (this.waiting.length) {
      const file = this.waiting.shift();
      const entry = { file, asked: new Date(), answer: null, problem: null };
      this.history.add(entry);
      await this.answer(entry);
    }
    this.busy = false;
  }

  async answer(entry) {
    if (!this.picker.chosen.size) return this.fail(entry, "Choose at least one task first.");
    tell(at("ask-notice"), "");
    this.say(this.waiting.length ? `Asking … ${count(this.waiting.length, "more clip")} to come` : "Asking …");
    entry.turn = (entry.turn ?? 0) + 1;
    const turn = entry.turn;
    const started = performance.now();
    try {
      const fields = [["file", entry.file], ...(this.tasks ?? ["*"]).map((task) => ["task", task]), ["top_k", String(SCORES)]];
      const drawn = entry.waveform ? null : decoded(entry.file);
      const answer = await request("v1/classify", { method: "POST", body: form(fields), onwait: () => this.say("The server is busy; trying again …") });
      if (turn !== entry.turn) return undefined;
      Object.assign(entry, { answer, problem: null, duration: answer.duration_seconds, milliseconds: performance.now() - started });
      entry.waveform ??= new Waveform(entry.file, await drawn, entry.duration);
      this.open(entry);
      return this.explain(entry);
    } catch (error) {
      return turn === entry.turn ? this.fail(entry, error.message) : undefined;
    }
  }

  fail(entry, message) {
    entry.problem = message;
    this.history.draw();
    if (this.history.current !== entry) return;
    this.say("");
    this.open(entry); // of the clip before it nothing stays
    this.drawSnippets();
  }

  say(words) {
    at("ask-status").textContent = words;
  }

  open(entry) {
    this.history.select(entry);
    tell(at("ask-notice"), entry.problem ? `${entry.file.name}: ${entry.problem}` : "");
    at("clip").hidden = !entry.answer;
    if (!entry.answer) return at("answers").replaceChildren();
    const { predictions } = entry.answer;
    at("ask-status").replaceChildren(
      `${count(predictions.length, "answer")} in ${Math.round(entry.milliseconds)} ms`,
      element("span", { class: "unseen" }, `: ${predictions.slice(0, MOST_SPOKEN).map(summary).join(", ")}`),
    );
    at("clip").replaceChildren(
      element("div", { class: "row" }, element("h2", { class: "clip-name" }, entry.file.name), element("span", { class: "hint" }, seconds(entry.duration))),
      entry.waveform.node,
      ...(entry.answer.notices ?? []).map((notice) => element("p", { class: "notice" }, notice)),
    );
    this.drawAnswers(entry);
    this.drawSnippets();
    return entry.waveform.fit();
  }

  drawAnswers(entry) {
    at("answers").replaceChildren(
      answerCards(entry.answer.predictions, entry.explained, (task, slot) => {
        this.explaining = { task, slot };
        this.explain(entry);
      }),
    );
  }

  // The task whose parts are shown: the one last asked for where it answered, else the first.
  wanted(entry) {
    const { predictions } = entry.answer;
    const prediction = predictions.find((each) => each.task === this.explaining?.task) ?? predictions[0];
    const slots = Object.keys(prediction.slots);
    return { task: prediction.task, slot: slots.includes(this.explaining?.slot) ? this.explaining.slot : slots[0] };
  }

  async explain(entry) {
    const wanted = this.wanted(entry);
    entry.explained = wanted;
    this.drawAnswers(entry);
    let found;
    try {
      found = await request("v1/explain", { method: "POST", body: form([["file", entry.file], ["task", wanted.task], ["slot", wanted.slot]]) });
    } catch (error) {
      entry.waveform.said.textContent = `What mattered could not be computed: ${error.message}`;
      return;
    }
    if (entry.explained !== wanted) return;
    entry.waveform.showUnits(found.units.map(({ id, start_seconds, end_seconds }) => ({ id, start: start_seconds, end: end_seconds })));
    entry.waveform.showSpans(found.spans.map(({ start_seconds, end_seconds, importance }) => ({ start: start_seconds, end: end_seconds, importance })), found.label);
  }

  drawSnippets() {
    drawSnippets(at("snippets"), this.history.current?.file.name ?? "clip.wav", this.tasks);
  }
}
