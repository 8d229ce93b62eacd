// What the tasks say about a clip: a card each, label first, then the calibrated scores as bars.

import { element, percent } from "./dom.js";

const FIRST_SHOWN = 5; // labels
const MOST_CARDS = 60;

// Cards of all answers; `chosen` is the task whose parts are shown, `onchoose(task, slot)` asks for another.
export function answerCards(predictions, chosen, onchoose) {
  const cards = element("div", { class: "answers" }, predictions.slice(0, MOST_CARDS).map((each) => card(each, chosen, onchoose)));
  const rest = predictions.slice(MOST_CARDS);
  const more = element("button", { type: "button", class: "link" }, `${rest.length.toLocaleString("en")} more answers`);
  more.addEventListener("click", () => more.replaceWith(...rest.map((each) => card(each, chosen, onchoose))));
  if (rest.length) cards.append(more);
  return cards;
}

function card(prediction, chosen, onchoose) {
  const slots = Object.entries(prediction.slots);
  const heading = `answer-${prediction.task}`;
  return element(
    "article",
    { class: prediction.abstained ? "answer unsure" : "answer", "aria-labelledby": heading },
    element("h3", { class: "overline", id: heading }, prediction.task),
    slots.map(([slot, answer]) => slotAnswer(prediction, slot, answer, slots.length > 1)),
    prediction.abstained && element("p", { class: "hint" }, "Not sure enough: below the threshold chosen on validation."),
    prediction.out_of_domain > 1 && element("p", { class: "hint" }, "Unlike the clips that this task was trained on."),
    slots.map(([slot, answer]) => whatMattered(prediction, slot, answer, slots.length > 1, chosen, onchoose)),
  );
}

function slotAnswer(prediction, slot, answer, several) {
  const scores = Object.entries(answer.scores).sort(([, one], [, other]) => other - one);
  const list = element("dl", { class: "scores" }, scores.slice(0, FIRST_SHOWN).map(bar));
  const rest = scores.length - FIRST_SHOWN;
  const more = rest > 0 && element("button", { type: "button", class: "link" }, `${rest} more`);
  if (more) {
    more.addEventListener("click", () => {
      list.append(...scores.slice(FIRST_SHOWN).map(bar));
      more.remove();
    });
  }
  return element(
    "div",
    { class: "slot" },
    several && element("p", { class: "hint" }, slot),
    element("p", { class: "label" }, answer.label, " ", element("span", { class: "score" }, percent(answer.score))),
    list,
    more,
  );
}

function bar([label, score], place) {
  const fill = element("span", { class: "fill" });
  fill.style.inlineSize = `${Math.max(0.5, 100 * score)}%`;
  return element(
    "div",
    { class: place === 0 ? "bar best" : "bar" },
    element("dt", { title: label }, label),
    element("dd", {}, element("span", { class: "track", "aria-hidden": "true" }, fill), element("span", { class: "number" }, percent(score))),
  );
}

function whatMattered(prediction, slot, answer, several, chosen, onchoose) {
  const pressed = chosen?.task === prediction.task && chosen?.slot === slot;
  const words = several ? `Show what mattered for ${slot}` : "Show what mattered";
  return element(
    "button",
    { type: "button", class: "link mattered", "aria-pressed": String(pressed), "aria-label": `${words}: ${prediction.task}, ${answer.label}`, onclick: () => onchoose(prediction.task, slot) },
    pressed ? "Shown above" : words,
  );
}
