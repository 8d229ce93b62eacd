// The same question from a terminal and from Python, ready to copy.

import { address } from "./api.js";
import { element } from "./dom.js";

function quoted(text) {
  return /^[\w./:-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function listed(names) {
  return `[${names.map((name) => JSON.stringify(name)).join(", ")}]`;
}

export function curlLines(file, tasks) {
  const chosen = tasks === null ? ["-F task='*'"] : tasks.map((task) => `-F ${quoted(`task=${task}`)}`);
  return [`curl ${quoted(address("v1/classify"))}`, `-F ${quoted(`file=@${file}`)}`, ...chosen].join(" \\\n  ");
}

export function pythonLines(file, tasks) {
  const given = tasks === null ? "" : `, tasks=${listed(tasks)}`;
  return [
    "from speechprompt.server.client import Client",
    "",
    `client = Client(${JSON.stringify(address("").replace(/\/$/, ""))})`,
    `for prediction in client.classify(${JSON.stringify(file)}${given}).predictions:`,
    "    print(prediction.task, prediction.score)",
  ].join("\n");
}

export function drawSnippets(place, file, tasks) {
  const kinds = { curl: curlLines(file, tasks), Python: pythonLines(file, tasks) };
  const code = element("code");
  const copy = element("button", { type: "button", class: "link" }, "Copy");
  const pick = (name) => {
    code.textContent = kinds[name];
    tabs.forEach((tab) => tab.setAttribute("aria-pressed", String(tab.textContent === name)));
  };
  const tabs = Object.keys(kinds).map((name) => element("button", { type: "button", class: "tab", onclick: () => pick(name) }, name));
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      copy.textContent = "Selected; press Ctrl C";
    }
    setTimeout(() => (copy.textContent = "Copy"), 2000);
  });
  place.replaceChildren(
    element("section", { class: "snippets", "aria-labelledby": "snippets-title" }, element("div", { class: "row" }, element("h2", { id: "snippets-title" }, "The same from your code"), element("span", { class: "tools" }, tabs, copy)), element("pre", { tabindex: 0 }, code)),
  );
  pick("curl");
}
