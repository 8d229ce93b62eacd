// A lesson in progress: what the server is doing, how far it is, and in the end how well it learned.

import { request } from "./api.js";
import { count, element, percent, shape } from "./dom.js";

const POLL_MILLISECONDS = 500;
const STAGES = { waiting: "Waiting for another lesson to end", loading: "Loading the language model", encoding: "Turning clips into units", training: "Training", checking: "Checking and keeping" };

export class Lesson {
  constructor(job, { clips, token, onuse, onlearned, onback, onfresh }) {
    Object.assign(this, { job, clips, token, onuse, onlearned, onback, onfresh, losses: [] });
    this.node = element("div", { class: "lesson" });
    this.draw();
  }

  get running() {
    return this.job.state === "waiting" || this.job.state === "running";
  }

  async follow() {
    while (this.running) {
      await new Promise((resolve) => setTimeout(resolve, POLL_MILLISECONDS));
      if (!this.node.isConnected) return;
      try {
        this.job = await request(`v1/teaching/${this.job.id}`);
      } catch (error) {
        if (error.status === 404) this.job = { ...this.job, state: "failed", problem: "The server no longer knows this lesson; it may have been restarted." };
        else continue;
      }
      if (this.job.loss !== null && this.job.loss !== undefined) this.losses.push([this.job.step, this.job.loss]);
      if (this.job.state === "done") this.onlearned();
      this.draw();
    }
  }

  async cancel(button) {
    button.disabled = true;
    try {
      this.job = await request(`v1/teaching/${this.job.id}`, { method: "DELETE", token: this.token || this.secret.value });
      this.draw();
    } catch (error) {
      this.problem.textContent = error.message;
      this.problem.hidden = false;
      button.disabled = false;
    }
  }

  draw() {
    if (this.running) this.drawProgress();
    else if (this.job.state === "done") this.node.replaceChildren(...this.outcome());
    else this.node.replaceChildren(...this.ending());
  }

  drawProgress() {
    if (!this.bar) {
      this.bar = element("progress", { max: 1, "aria-label": "Progress of training" });
      this.words = element("p", { class: "status", role: "status" });
      this.curve = element("div", { class: "curve" });
      this.problem = element("p", { class: "notice", role: "alert", hidden: true });
      // after a reload nobody here knows the token any more
      this.secret = element("input", { type: "password", autocomplete: "off", "aria-label": "Token of this server, to cancel", placeholder: "Token of this server", hidden: Boolean(this.token) });
      const cancel = element("button", { type: "button", class: "quiet", onclick: () => this.cancel(cancel) }, "Cancel");
      this.node.replaceChildren(element("h2", {}, `Teaching “${this.job.name}”`), this.bar, this.words, this.curve, element("div", { class: "row" }, this.secret, cancel), this.problem);
    }
    const { stage, step, steps, remaining_seconds: left } = this.job;
    this.bar.value = stage === "training" ? 0.1 + (0.88 * step) / steps : { waiting: 0, loading: 0.03, encoding: 0.06, checking: 0.99 }[stage] ?? 0;
    const rest = left ? `, about ${left < 60 ? `${Math.max(1, Math.round(left))} s` : `${Math.ceil(left / 60)} min`} left` : "";
    const words = stage === "training" ? `Training, step ${step} of ${steps}${rest}` : `${STAGES[stage] ?? stage} …`;
    if (this.words.textContent !== words) this.words.textContent = words;
    this.curve.replaceChildren(...(this.losses.length > 2 ? [lossCurve(this.losses, steps)] : []));
  }

  outcome() {
    const { held_out: held, name } = this.job;
    const { estimate, low, high } = held.accuracy;
    const lead = `of ${count(held.clips, "clip")} were answered right by a prompt that had not heard them; 95 % interval ${percent(low)} to ${percent(high)}. Always saying the most frequent label would be right on ${percent(held.majority)}. Other voices and rooms may be harder.`;
    return [
      element("h2", { tabindex: -1 }, `“${name}” is ready`),
      element("div", { class: "headline" }, element("p", { class: "figure-number" }, percent(estimate)), element("p", { class: "lead" }, lead)),
      element("dl", { class: "scores by-label" }, Object.entries(held.labels).map(labelBar)),
      this.mistakes(held.mistakes),
      element("div", { class: "row" }, action("Ask it now", () => this.onuse(name), "main"), action("Add clips and train again", this.onback), action("Teach another", this.onfresh)),
    ].filter(Boolean);
  }

  mistakes(mistakes) {
    if (!mistakes.length) return null;
    const rows = mistakes.slice(0, 8).map(({ clip, label, answered, score }) => {
      const file = this.clips[Number(clip)]?.file;
      const play = file && action("Play", () => new Audio(URL.createObjectURL(file)).play().catch(() => {}));
      return element("li", {}, element("span", {}, `${file?.name ?? `clip ${Number(clip) + 1}`}: said `, element("b", {}, label), ", answered ", element("b", { class: "below" }, answered), ` ${percent(score)} `), play);
    });
    return element("section", { class: "mistakes" }, element("h3", {}, "Clips to listen to again"), element("p", { class: "hint" }, "Answered wrong while hidden. A clip may be mislabelled, cut off or just unlike the others."), element("ul", {}, rows));
  }

  ending() {
    const cancelled = this.job.state === "cancelled";
    return [
      element("h2", {}, cancelled ? "Cancelled" : "That did not work"),
      element("p", { class: cancelled ? "hint" : "notice", role: "alert" }, cancelled ? "Nothing was kept." : this.job.problem),
      element("div", { class: "row" }, action("Back to the clips", this.onback, "main")),
    ];
  }
}

function action(words, onclick, kind = "link") {
  return element("button", { type: "button", class: kind, onclick }, words);
}

function labelBar([label, { right, clips }]) {
  const fill = element("span", { class: "fill" });
  fill.style.inlineSize = `${Math.max(0.5, (100 * right) / clips)}%`;
  return element("div", { class: "bar best" }, element("dt", {}, label), element("dd", {}, element("span", { class: "track", "aria-hidden": "true" }, fill), element("span", { class: "number" }, `${right} of ${clips}`)));
}

function lossCurve(losses, steps) {
  const most = Math.max(...losses.map(([, loss]) => loss), 0.1);
  const points = losses.map(([step, loss]) => `${(300 * step) / steps},${58 - (54 * loss) / most}`).join(" ");
  return shape("svg", { viewBox: "0 0 300 60", role: "img" }, shape("title", {}, `Loss ${losses.at(-1)[1].toFixed(2)}`), shape("line", { x1: 0, x2: 300, y1: 59, y2: 59, class: "rule" }), shape("polyline", { points }), shape("text", { x: 300, y: 10, "text-anchor": "end" }, "loss"));
}
