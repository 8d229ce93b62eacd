// The view that teaches: a name, labels with their clips, and the training that makes a task of them.

import { form, request } from "./api.js";
import { count, element } from "./dom.js";
import { LabelRow } from "./label-row.js";
import { Lesson } from "./lesson.js";

const FIRST_LABELS = 2;
const ENOUGH_CLIPS = 8; // a label; fewer work, more work better

export class Teach {
  // `onuse(name)` asks a new task; `onlearned()` hears that there is one.
  constructor(place, onuse, onlearned) {
    Object.assign(this, { place, onuse, onlearned, rows: [], rules: null, token: "", replacing: null });
  }

  async open() {
    if (this.lesson?.running) return;
    try {
      this.rules = await request("v1/teaching");
    } catch (error) {
      const said = error.status === 404 ? "This server does not teach." : error.message;
      if (this.form?.isConnected) this.tell(said);
      else this.place.replaceChildren(element("p", { class: "empty" }, said));
      return;
    }
    this.tell("");
    if (!this.rules.enabled) return this.drawClosed();
    const running = this.rules.jobs.find((job) => ["waiting", "running"].includes(job.state));
    if (running) this.watch(running);
    else if (!this.form) this.drawForm();
    else if (!this.form.isConnected && !this.lesson?.node.isConnected) this.showForm();
  }

  // The form with all that was put into it, after something else had its place.
  showForm() {
    this.place.replaceChildren(this.form);
    this.judge();
  }

  // The view is left: what was being recorded is kept.
  leave() {
    this.rows.forEach((row) => row.stop());
  }

  drawClosed() {
    this.place.replaceChildren(
      element("div", { class: "empty" }, element("p", {}, "This server was started without a token, so nobody can change its tasks. To teach here, stop it and start it with one:"), element("pre", { tabindex: 0 }, element("code", {}, "openssl rand -hex 16 > token\nspeechprompt serve ARTIFACTS_DIR --token-file token"))),
    );
  }

  drawForm() {
    this.name = element("input", { type: "text", id: "task-name", required: true, maxlength: 64, autocomplete: "off", spellcheck: "false", placeholder: "door-command", oninput: () => this.judge() });
    this.cut = element("input", { type: "checkbox", checked: true });
    this.list = element("div", { class: "label-rows" });
    this.say = element("p", { class: "status", role: "status" });
    this.notice = element("p", { class: "notice", role: "alert", hidden: true });
    this.submit = element("button", { type: "submit", class: "main" }, "Train");
    this.secret = element("input", { type: "password", id: "token", autocomplete: "off", oninput: () => this.judge() });
    const folder = element("input", { type: "file", class: "unseen", webkitdirectory: true, multiple: true, onchange: ({ target }) => this.addFolder([...target.files]) });
    this.form = element(
      "form",
      { class: "teach-form", onsubmit: (event) => this.train(event) },
      field("task-name", "Name of the task", this.name),
      this.list,
      element("div", { class: "row under" }, element("button", { type: "button", class: "link", onclick: () => this.addRow().focus() }, "Add a label"), element("label", { class: "link" }, folder, "Choose a folder with a subfolder for each label"), element("label", { class: "check" }, this.cut, "Cut recordings at pauses, so that one recording holds several clips")),
      this.rules.token_required && field("token", "Token of this server", this.secret),
      element("div", { class: "row" }, this.submit, this.say),
      this.notice,
    );
    this.rows = [];
    this.replacing = null;
    for (let i = 0; i < FIRST_LABELS; i += 1) this.addRow();
    this.place.replaceChildren(this.form);
    this.judge();
  }

  addRow(label = "") {
    const row = new LabelRow(label, this.rows.length, {
      onchange: () => this.judge(),
      onproblem: (message) => this.tell(message),
      onremove: () => this.removeRow(row),
      cuts: () => this.cut.checked,
      mostSeconds: this.rules.limits.most_seconds,
    });
    this.rows.push(row);
    this.list.append(row.node);
    this.judge();
    return row;
  }

  removeRow(row) {
    row.release();
    this.rows = this.rows.filter((each) => each !== row);
    row.node.remove();
    if (this.rows.length < FIRST_LABELS) this.addRow();
    this.judge();
  }

  // Files of label folders: the folder that holds a file names its label.
  addFolder(files) {
    this.addLabelled(files.map((file) => [file.webkitRelativePath.split("/").at(-2) ?? "", file]));
  }

  addLabelled(pairs) {
    for (const [label, file] of pairs) {
      if (!/\.(wav|flac|ogg|opus|mp3|webm|m4a|mp4|oga)$/i.test(file.name)) continue;
      const row = this.rows.find((each) => each.label === label) ?? this.rows.find((each) => !each.label && !each.clips.length) ?? this.addRow();
      row.label = label;
      row.addFiles([file]);
    }
    this.judge();
  }

  // Files dropped on the view, each with the folder that it lay in, if any.
  drop(pairs, target) {
    if (!this.form?.isConnected) return;
    const row = this.rows.find((each) => each.node.contains(target));
    if (row) row.addFiles(pairs.map(([, file]) => file));
    else if (pairs.every(([label]) => label)) this.addLabelled(pairs);
    else this.tell("Drop clips onto a label, or drop a folder that has a subfolder for each label.");
  }

  tell(message) {
    if (!this.notice) return;
    this.notice.textContent = message ?? "";
    this.notice.hidden = !message;
  }

  // What is still missing, in one line; empty when training can start.
  missing() {
    const { fewest_clips: fewest, most_clips: most, most_labels: mostLabels } = this.rules.limits;
    const labels = this.rows.map((row) => row.label);
    if (!this.name.value.trim()) return "Give the task a name.";
    if (!this.name.checkValidity()) return "A name is made of letters, digits, '.', '_' and '-'.";
    if (labels.some((label) => !label)) return "Give every label a name.";
    if (new Set(labels).size < labels.length) return "Two labels have the same name.";
    if (labels.length > mostLabels) return `This server teaches up to ${mostLabels} labels.`;
    const short = this.rows.find((row) => row.clips.length < fewest);
    if (short) return `“${short.label}” needs ${count(fewest - short.clips.length, "more clip")}.`;
    const total = this.rows.reduce((sum, row) => sum + row.clips.length, 0);
    if (total > most) return `This server takes up to ${most} clips; there are ${total}.`;
    if (this.rules.token_required && !this.secret.value) return "Enter the token of this server.";
    return "";
  }

  judge() {
    if (!this.submit || !this.list.isConnected) return;
    const missing = this.missing();
    this.submit.disabled = Boolean(missing);
    const fewest = Math.min(...this.rows.map((row) => row.clips.length));
    this.say.textContent = missing || (fewest < ENOUGH_CLIPS ? `Ready. ${ENOUGH_CLIPS} or more clips of each label work better.` : "Ready.");
  }

  async train(event) {
    event.preventDefault();
    if (this.missing()) return;
    this.tell("");
    this.submit.disabled = true;
    this.say.textContent = "Sending the clips …";
    this.token = this.secret.value;
    const name = this.name.value.trim();
    const fields = [["name", name]];
    const sent = this.rows.flatMap((row) => row.clips.map((clip) => ({ label: row.label, file: clip.file })));
    for (const { label, file } of sent) fields.push(["label", label], ["clip", file]);
    if (this.replacing === name) fields.push(["replace", "true"]);
    try {
      this.watch(await request("v1/teaching", { method: "POST", body: form(fields), token: this.token }), sent);
    } catch (error) {
      this.replacing = error.status === 409 ? name : null;
      this.tell(this.replacing ? `There is “${name}” already. Press Train again to replace it, or choose another name.` : error.message);
      this.judge();
    }
  }

  // Follows a lesson; one of this form comes with the clips that were sent.
  watch(job, sent = null) {
    this.leave();
    this.lesson = new Lesson(job, {
      clips: sent ?? [],
      token: this.token,
      onuse: this.onuse,
      onlearned: this.onlearned,
      onback: this.form ? () => this.back(sent ? job.name : null) : () => this.drawForm(),
      onfresh: () => this.drawForm(),
    });
    this.place.replaceChildren(this.lesson.node);
    this.lesson.follow();
  }

  // The form as it was, to add clips and train again; the task that it taught may be replaced unasked.
  back(taught) {
    this.replacing = this.lesson.job.state === "done" ? taught : null;
    this.showForm();
  }
}

function field(id, words, input) {
  return element("p", { class: "field" }, element("label", { for: id }, words), input);
}
