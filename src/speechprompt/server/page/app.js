// Starts the page: views by address, tasks from the server, dropped files, keys, theme.

import { connection, request } from "./api.js";
import { Ask } from "./ask.js";
import { at } from "./dom.js";
import { dropped } from "./dropped.js";
import { Gallery } from "./gallery.js";
import { Teach } from "./teach.js";
import { startTheme } from "./theme.js";

const VIEWS = ["ask", "tasks", "teach"];

const ask = new Ask();
const gallery = new Gallery(at("gallery"), use);
const teach = new Teach(at("lesson"), use, loadTasks);

async function loadTasks() {
  try {
    const { tasks, spoken_lm: spokenLm } = await request("v1/tasks");
    ask.setTasks(tasks.map((task) => task.name));
    gallery.setTasks(tasks, spokenLm);
  } catch (error) {
    at("ask-status").textContent = error.message;
  }
}

async function use(name) {
  await loadTasks();
  ask.picker.choose([name]);
  location.hash = "ask";
}

function view() {
  const name = location.hash.slice(1);
  return VIEWS.includes(name) ? name : "ask";
}

function show() {
  if (location.hash === "#main") return;
  const current = view();
  for (const name of VIEWS) {
    at(name).hidden = name !== current;
    const link = document.querySelector(`nav a[href="#${name}"]`);
    if (name === current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = { ask: "speechprompt", tasks: "Tasks · speechprompt", teach: "Teach · speechprompt" }[current];
  if (current !== "ask") ask.recordButton.cancel();
  if (current !== "teach") teach.leave();
  if (current === "tasks") loadTasks();
  if (current === "teach") teach.open();
  scrollTo(0, 0);
}

function takeDrops() {
  let depth = 0;
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files") && view() !== "tasks";
  addEventListener("dragenter", (event) => {
    if (!holdsFiles(event)) return;
    depth += 1;
    at("drop").hidden = false;
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (!depth) at("drop").hidden = true;
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", async (event) => {
    event.preventDefault();
    depth = 0;
    at("drop").hidden = true;
    const pairs = await dropped(event.dataTransfer);
    if (!pairs.length) return;
    if (view() === "teach") teach.drop(pairs, event.target);
    else if (view() === "ask") ask.add(pairs.map(([, file]) => file));
  });
}

function takeKeys() {
  addEventListener("keydown", (event) => {
    if (view() !== "ask" || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest("input:not([type=checkbox]), textarea, dialog")) return;
    if (event.key === "r" || event.key === "R") ask.recordButton.toggle();
    else if (event.key === "Escape") ask.recordButton.cancel();
  });
}

connection.addEventListener("lost", () => (at("offline").hidden = false));
connection.addEventListener("found", () => (at("offline").hidden = true));
at("reconnect").addEventListener("click", loadTasks);
addEventListener("hashchange", show);
takeDrops();
takeKeys();
startTheme(at("theme"));
loadTasks();
show();
